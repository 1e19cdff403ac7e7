// Any bytes at all: the JSON reader either refuses them or gives a tree that keeps its limits, and
// what it accepted it accepts again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/json.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const ciuic::JsonLimits limits{
      .max_depth = 16, .max_string_bytes = 256, .max_keys_per_object = 32};
  const auto value = ciuic::JsonValue::parse(text, limits, 256);
  if (!value) {
    if (value.error().message().empty()) std::abort();  // a refusal says why
    return 0;
  }
  if (value->is_string()) {
    std::string quoted;
    ciuic::append_json_string(quoted, value->as_string());
    const auto again = ciuic::JsonValue::parse(quoted, {}, 256);
    if (!again || again->as_string() != value->as_string()) std::abort();
  }
  return 0;
}
