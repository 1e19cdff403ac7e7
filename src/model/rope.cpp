#include "model/rope.hpp"

#include <cmath>
#include <numbers>

namespace ciuic::inline CIUIC_ABI {
namespace {

/// Llama 3.1's stretch of long wavelengths: those beyond the original context are slowed by
/// `factor`, short ones kept, and the band between is blended.
float llama3_scaled(float frequency, const RopeScaling& scaling) {
  const auto factor = static_cast<float>(scaling.factor);
  const auto low = static_cast<float>(scaling.low_frequency_factor);
  const auto high = static_cast<float>(scaling.high_frequency_factor);
  const auto context = static_cast<float>(scaling.original_max_position_embeddings);
  const float wavelength = 2.0f * std::numbers::pi_v<float> / frequency;
  if (wavelength > context / low) return frequency / factor;
  if (wavelength < context / high) return frequency;
  const float blend = (context / wavelength - low) / (high - low);
  return (1.0f - blend) * frequency / factor + blend * frequency;
}

}  // namespace

std::vector<float> rope_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies;
  const auto head_dim = static_cast<float>(config.head_dim);
  for (std::int32_t i = 0; i < config.head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / head_dim;
    float frequency = 1.0f / std::pow(static_cast<float>(config.rope_theta), exponent);
    switch (config.rope_scaling.kind) {
      case RopeScaling::Kind::none:
        break;
      case RopeScaling::Kind::linear:
        frequency /= static_cast<float>(config.rope_scaling.factor);
        break;
      case RopeScaling::Kind::llama3:
        frequency = llama3_scaled(frequency, config.rope_scaling);
        break;
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace ciuic::inline CIUIC_ABI
