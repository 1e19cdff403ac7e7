// Building an error and dropping it is a forgotten `return`.
// expect: nodiscard|unused-value
#include "ciuic/base/error.hpp"

ciuic::Error wrong();

#ifdef MUST_FAIL
void use() { wrong(); }
#else
ciuic::Error use() { return wrong(); }
#endif
