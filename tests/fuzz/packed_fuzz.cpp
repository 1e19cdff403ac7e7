// libFuzzer target: the table of a quantized directory, for a fixed model of one layer.
// Whatever is accepted must be what the model needs, in bytes that can be counted.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/packed_directory.hpp"

using namespace ciuic;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

ModelConfig small_config() {
  ModelConfig config;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 4;
  config.vocab_size = 32;
  return config;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<MatrixSpec> specs = decoder_matrices(small_config());
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto table = parse_packed_table(text, "fuzz", specs);
  if (!table) {
    require(table.error().code() == ErrorCode::bad_model ||
            table.error().code() == ErrorCode::unsupported);
    require(table.error().message().size() < 500);
    for (char c : table.error().message()) require(static_cast<unsigned char>(c) >= 0x20);
    return 0;
  }
  require(table->size() == specs.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const PackedEntry& entry = (*table)[i];
    require(entry.format.is_valid());
    require(entry.input_scale >= 0.0f && std::isfinite(entry.input_scale));
    const auto layout = PackedLayout::of(specs[i].rows, specs[i].cols,
                                         specs[i].form == PackedMatrix::Form::gated, entry.format);
    require(layout.has_value() && layout->bytes == entry.layout.bytes);
    require(entry.layout.k == static_cast<std::size_t>(specs[i].cols));
  }
  return 0;
}
