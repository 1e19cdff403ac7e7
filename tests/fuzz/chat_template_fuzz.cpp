// Any bytes as a chat template: refused, or rendered to valid text, within its bounds.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "ciuic/text/chat_template.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto parsed =
      ciuic::ChatTemplate::parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!parsed) {
    if (!parsed.error().message().starts_with("chat template ")) std::abort();
    return 0;
  }
  static const std::vector<ciuic::ChatMessage> messages{
      {"system", "Be brief."},
      {"user", "Hi \xC3\xA9", R"({"content":[{"type":"text","text":"Hi"}]})"},
      {"assistant", "<think>a</think>b",
       R"({"tool_calls":[{"name":"f","arguments":{"x":[1,2.5]}}]})"}};
  const auto text = parsed->apply(messages, {.bos_token = "<s>", .eos_token = "</s>"});
  if (!text && text.error().message().find('\n') != std::string_view::npos) std::abort();
  return 0;
}
