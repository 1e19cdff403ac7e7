// The error of a temporary Result is moved out, so it cannot be bound to a reference that dangles.
// expect: cannot bind|cannot bind to|binding reference
#include "ciuic/base/error.hpp"

ciuic::Result<int> read();

ciuic::ErrorCode use() {
#ifdef MUST_FAIL
  ciuic::Error& error = read().error();
#else
  ciuic::Error error = read().error();
#endif
  return error.code();
}
