// A Buffer has one owner: it moves, and never copies by accident.
// expect: deleted
#include <utility>

#include "ciuic/base/buffer.hpp"

void use(ciuic::Buffer buffer) {
#ifdef MUST_FAIL
  ciuic::Buffer other = buffer;
#else
  ciuic::Buffer other = std::move(buffer);
#endif
  (void)other;
}
