// A read-only view does not become a mutable one.
// expect: could not convert|no viable conversion
#include "ciuic/base/tensor_view.hpp"

#ifdef MUST_FAIL
ciuic::TensorView use(ciuic::ConstTensorView view) { return view; }
#else
ciuic::ConstTensorView use(ciuic::TensorView view) { return view; }
#endif
