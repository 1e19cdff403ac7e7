// Links the compiled half and calls into it: its own symbols, and PCRE2 and utf8proc behind it.
#include "all_ciuic.hpp"
#include "ciuic/ciuic.hpp"

int main() {
  const bool refused = !ciuic::load_model("/nowhere/at/all");
  const bool parsed = !ciuic::Tokenizer::parse("{}");
  const bool runs = ciuic::cpu_backend().has_value();
  return refused && parsed && runs && ciuic::kVersionMajor == CIUIC_VERSION_MAJOR ? 0 : 1;
}
