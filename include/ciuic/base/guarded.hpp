// call_guarded: the wall between a host's callable and ciuic's threads.
#pragma once

#include <string_view>
#include <utility>

#include "ciuic/base/error.hpp"

#if defined(__cpp_exceptions)
#include <exception>
#include <new>
#endif

namespace ciuic::inline CIUIC_ABI {

/// Calls `callable`; what it throws comes back as an error with `code` (`out_of_memory` for
/// std::bad_alloc) and the message `who` + " threw: " + what(). Without exceptions it just calls.
template <class F>
Result<void> call_guarded(ErrorCode code, std::string_view who, F&& callable) noexcept {
#if defined(__cpp_exceptions)
  try {
    std::forward<F>(callable)();
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::out_of_memory, {who, " threw: out of memory"});
  } catch (const std::exception& exception) {
    return Error(code, {who, " threw: ", exception.what()});
  } catch (...) {
    return Error(code, {who, " threw something that is no std::exception"});
  }
#else
  static_cast<void>(code);
  static_cast<void>(who);
  std::forward<F>(callable)();
#endif
  return {};
}

}  // namespace ciuic::inline CIUIC_ABI
