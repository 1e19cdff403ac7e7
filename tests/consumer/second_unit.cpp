#include "all_core.hpp"

int second_unit(ciuic::Function<int()> function) { return function(); }
