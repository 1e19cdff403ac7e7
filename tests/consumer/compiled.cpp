// Links the compiled half: its own symbols, and PCRE2 and utf8proc behind it.
#include "all_ciuic.hpp"

int main() { return ciuic::kVersionMajor == CIUIC_VERSION_MAJOR ? 0 : 1; }
