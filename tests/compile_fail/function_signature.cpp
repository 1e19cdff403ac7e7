// A Function takes callables of its signature, and says so at the point of conversion.
// expect: no viable conversion|conversion from
#include "ciuic/base/function.hpp"

#ifdef MUST_FAIL
ciuic::Function<int(int)> function = [](const char*) { return 0; };
#else
ciuic::Function<int(int)> function = [](int n) { return n; };
#endif
