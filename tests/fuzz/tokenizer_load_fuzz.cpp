// Any bytes as a tokenizer.json: refused with a message of one line, or loaded and then usable.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "ciuic/text/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = ciuic::Tokenizer::parse(json);
  if (!tokenizer) {
    const std::string_view message = tokenizer.error().message();
    if (!message.starts_with("tokenizer.json: ")) std::abort();
    if (message.find('\n') != std::string_view::npos) std::abort();
    return 0;
  }
  for (const bool parse_special : {false, true}) {
    const auto ids =
        tokenizer->encode("ab <s> a1 \xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80 \xFF ba  \n",
                          {.parse_special = parse_special});
    if (!ids) continue;
    for (const std::int32_t id : *ids) {
      if (id < 0 || id >= tokenizer->vocab_size()) std::abort();
      if (!tokenizer->token_of(id)) std::abort();
    }
    if (!tokenizer->decode(*ids)) std::abort();
  }
  return 0;
}
