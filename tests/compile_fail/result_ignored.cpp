// A failure that nobody looks at is a bug: every Result is [[nodiscard]].
// expect: nodiscard
#include "ciuic/base/error.hpp"

ciuic::Result<void> save();

void use() {
#ifdef MUST_FAIL
  save();
#else
  if (!save()) return;
#endif
}
