// A Function owns a callable that need not be copyable, so it cannot be copied either.
// expect: deleted
#include <utility>

#include "ciuic/base/function.hpp"

void use(ciuic::Function<void()> function) {
#ifdef MUST_FAIL
  ciuic::Function<void()> other = function;
#else
  ciuic::Function<void()> other = std::move(function);
#endif
  (void)other;
}
