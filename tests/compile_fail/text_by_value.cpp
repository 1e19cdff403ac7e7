// The engine keeps views of what a model's text stream returns: a string by value is refused.
// expect: Model is no TextModel
#include <string>

#include "ciuic/engine/async_inference_engine.hpp"

struct Text {
#ifdef MUST_FAIL
  std::string push(ciuic::TokenId) { return "x"; }
#else
  std::string_view push(ciuic::TokenId) { return "x"; }
#endif
  std::string_view finish() { return {}; }
};
struct Model {
  ciuic::StepModelLimits limits() const { return {}; }
  ciuic::Result<void> reserve(std::int32_t, std::int32_t, std::int32_t) { return {}; }
  ciuic::Result<void> step(std::span<const ciuic::SequenceStep>, std::span<ciuic::StepResult>) {
    return {};
  }
  ciuic::Result<std::vector<ciuic::TokenId>> encode(std::string_view, bool) const {
    return std::vector<ciuic::TokenId>{};
  }
  Text text_stream() const { return {}; }
  std::span<const ciuic::TokenId> end_tokens() const { return {}; }
};

int main() { ciuic::AsyncInferenceEngine<Model> engine{Model()}; }
