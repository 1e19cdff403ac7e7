// -fno-exceptions -fno-rtti: errors are values here, and `Result::value()` does not exist.
#include "all_core.hpp"

static ciuic::Result<int> half(int n) {
  if (n % 2 != 0) return ciuic::Error(ciuic::ErrorCode::invalid_argument, "n: expected even");
  return n / 2;
}

int main() {
  const ciuic::Result<int> good = half(8);
  const ciuic::Result<int> bad = half(7);
  return good && *good == 4 && !bad && bad.error().message() == "n: expected even" ? 0 : 1;
}
