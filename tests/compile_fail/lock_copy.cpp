// A Lock belongs to its scope.
// expect: deleted
#include "ciuic/base/sync.hpp"

void use(ciuic::Mutex& mutex) {
  ciuic::Lock lock(mutex);
#ifdef MUST_FAIL
  ciuic::Lock other = lock;
#endif
}
