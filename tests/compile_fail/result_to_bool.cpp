// A Result is asked, not converted: `bool ok = f()` would lose the reason.
// expect: cannot convert|no viable conversion
#include "ciuic/base/error.hpp"

ciuic::Result<int> read();

bool use() {
#ifdef MUST_FAIL
  bool ok = read();
#else
  bool ok = read().has_value();
#endif
  return ok;
}
