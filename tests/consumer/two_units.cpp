#include "all_core.hpp"

int second_unit(ciuic::Function<int()> function);

int main() { return second_unit([] { return 42; }) == 42 ? 0 : 1; }
