// The one place of the version, and of the inline namespace that every symbol of ciuic lives in.
#pragma once

#define CIUIC_VERSION_MAJOR 0
#define CIUIC_VERSION_MINOR 1
#define CIUIC_VERSION_PATCH 0

// Two ciuic versions can be linked into one program: their symbols differ by this inline namespace.
// A build over the simulated sync seam (base/sync.hpp) is another program text under the same class
// names, so it gets a namespace of its own as well; mixing the two would break the one-definition
// rule.
#if defined(CIUIC_SYNC_SIMULATED)
#define CIUIC_ABI v0_simulated
#else
#define CIUIC_ABI v0
#endif

namespace ciuic::inline CIUIC_ABI {
inline constexpr int kVersionMajor = CIUIC_VERSION_MAJOR;
inline constexpr int kVersionMinor = CIUIC_VERSION_MINOR;
inline constexpr int kVersionPatch = CIUIC_VERSION_PATCH;
}  // namespace ciuic::inline CIUIC_ABI

// Marks what the compiled half of ciuic exports; everything else in it is hidden.
#if defined(CIUIC_STATIC) || !(defined(__GNUC__) || defined(__clang__))
#define CIUIC_API
#else
#define CIUIC_API __attribute__((visibility("default")))
#endif
