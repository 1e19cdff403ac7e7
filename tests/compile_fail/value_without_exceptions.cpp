// Where exceptions are off, value() is absent rather than a hidden abort.
// expect: no member named .value.|has no member named .value.
#ifdef MUST_FAIL
#undef __cpp_exceptions  // as -fno-exceptions does
#endif
#include "ciuic/base/error.hpp"

int use(ciuic::Result<int> result) { return result.value(); }
