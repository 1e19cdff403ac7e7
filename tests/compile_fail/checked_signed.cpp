// Sizes are unsigned: checked arithmetic refuses signed numbers, whose overflow means something else.
// expect: no matching function
#include <cstdint>

#include "ciuic/base/checked.hpp"

#ifdef MUST_FAIL
auto sum = ciuic::checked_add(std::int64_t{1}, std::int64_t{2});
#else
auto sum = ciuic::checked_add(std::uint64_t{1}, std::uint64_t{2});
#endif
