// A device that is none: a Backend whose memory the host cannot touch and whose queues run nothing
// before somebody waits. Code that passes on it keeps to the device boundary.
//
//   - Device memory is mapped without access and opened only while the device executes, on a
//     thread of its own; each block ends at a page that is never opened. A host that follows a
//     device pointer faults. Fresh memory is filled with NaN.
//   - Queues are as late as the contract allows: copies and operations are recorded, and executed
//     when `synchronize`, a wait on an event, or the third poll of an event asks for it. Host
//     memory of a copy is read or written only then, so a buffer that was freed or changed too
//     early shows. What nobody ever waits for is never executed.
//   - Arithmetic is that of the CPU backend.
#pragma once

#include <memory>

#include "ciuic/ops/cpu_backend.hpp"

namespace ciuic::testing {

/// The backend must outlive everything made from it. Thread-safety: thread-safe.
std::shared_ptr<const Backend> fake_backend(CpuIsa isa = CpuIsa::best);

}  // namespace ciuic::testing
