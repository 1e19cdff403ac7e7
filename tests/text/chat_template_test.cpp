#include "ciuic/text/chat_template.hpp"

#include <chrono>
#include <cstdio>
#include <random>

#include "base/json.hpp"
#include "golden_files.hpp"

using namespace ciuic;

namespace {

void append_json(std::string& out, const JsonValue& value) {
  switch (value.kind()) {
    case JsonValue::Kind::null:
      out += "null";
      break;
    case JsonValue::Kind::boolean:
      out += value.as_boolean() ? "true" : "false";
      break;
    case JsonValue::Kind::integer:
      out += std::to_string(value.as_integer());
      break;
    case JsonValue::Kind::number: {
      char text[40];
      std::snprintf(text, sizeof text, "%.17g", value.as_number());
      out += text;
      break;
    }
    case JsonValue::Kind::string:
      append_json_string(out, value.as_string());
      break;
    case JsonValue::Kind::array: {
      out += '[';
      bool first = true;
      for (const JsonValue& item : value.items()) {
        if (!first) out += ',';
        first = false;
        append_json(out, item);
      }
      out += ']';
      break;
    }
    case JsonValue::Kind::object: {
      out += '{';
      bool first = true;
      for (const auto& [name, member] : value.members()) {
        if (!first) out += ',';
        first = false;
        append_json_string(out, name);
        out += ':';
        append_json(out, member);
      }
      out += '}';
      break;
    }
  }
}

std::string json_of(const JsonValue& value) {
  std::string out;
  append_json(out, value);
  return out;
}

Result<std::string> render(std::string_view text, const ChatTemplateOptions& options = {}) {
  const std::vector<ChatMessage> messages{{"user", "Hi"}};
  const Result<ChatTemplate> parsed = ChatTemplate::parse(text);
  if (!parsed) return parsed.error();
  return parsed->apply(messages, options);
}

std::string failure(std::string_view text) {
  const Result<std::string> result = render(text);
  return result ? "rendered: " + *result : std::string(result.error().message());
}

std::string repeat(std::string_view text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

}  // namespace

TEST_CASE("Templates render as Jinja2 renders them") {
  // Oracle: Jinja2 itself, by tests/golden/chat/make_chat_golden.py.
  const std::string file = std::string(CIUIC_SOURCE_DIR) + "/tests/golden/chat/cases.jsonl";
  std::ifstream in(file);
  REQUIRE(in.good());
  std::size_t count = 0, refused = 0, wrong = 0;
  for (std::string line; std::getline(in, line); ++count) {
    const JsonValue c = *JsonValue::parse(line);
    std::vector<ChatMessage> messages;
    for (const JsonValue& m : c.find("messages")->items()) {
      messages.push_back({m.find("role")->as_string(), "", json_of(m)});
    }
    const JsonValue& given = *c.find("options");
    const std::string variables =
        given.find("variables") != nullptr ? json_of(*given.find("variables")) : "";
    ChatTemplateOptions options{
        .bos_token = "<s>", .eos_token = "</s>", .variables_json = variables};
    if (given.find("add_generation_prompt") != nullptr) options.add_generation_prompt = false;
    const std::string& text = c.find("template")->as_string();
    const Result<ChatTemplate> parsed = ChatTemplate::parse(text);
    Result<std::string> got =
        parsed ? parsed->apply(messages, options) : Result<std::string>(parsed.error());
    const bool error = c.find("error") != nullptr;
    refused += error;
    const bool same = error ? !got : got && *got == c.find("text")->as_string();
    if (same) continue;
    if (++wrong > 40) continue;
    INFO("template: " << text.substr(0, 700));
    INFO("messages: " << json_of(*c.find("messages")).substr(0, 300));
    INFO("wanted: " << (error ? "an error" : c.find("text")->as_string()));
    INFO("got: " << (got ? *got : std::string(got.error().message())));
    CHECK(same);
  }
  std::printf("%zu chat template cases, %zu of them refused by both, %zu differ\n", count, refused,
              wrong);
  CHECK(wrong == 0);
  CHECK(count > 200);
}

TEST_CASE("Errors name line and column") {
  CHECK(failure("a\n  {{ nope.x }}") == "chat template 2:10: \"nope\" is undefined");
  CHECK(failure("{% if x %}") ==
        "chat template 1:11: expected {% endif %}, got the end of the template");
  CHECK(failure("{{ raise_exception('no\nway') }}") == "chat template 1:19: no way");
  CHECK(failure("{{ 1 | shout }}") == "chat template 1:6: unsupported filter \"shout\"");
  CHECK(failure("{% include 'x' %}") == "chat template 1:4: unsupported \"include\"");
  CHECK(failure("{{ 1 + }}") ==
        "chat template 1:8: expected an expression, got the end of the output");
  CHECK(failure("{{ 'a") == "chat template 1:6: a string is not closed");
  CHECK(failure("\xFF") == "chat template 1:1: not valid UTF-8");
  CHECK(render("{{ raise_exception('no') }}").error().code() == ErrorCode::invalid_argument);
  CHECK(render("{% include 'x' %}").error().code() == ErrorCode::unsupported);
}

TEST_CASE("A template can neither run for ever nor eat the memory") {
  const char* templates[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{{ 'a' * 1000000000 }}",
      "{{ [0] * 1000000000 }}",
      "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s "
      "%}{% endfor %}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% "
      "endfor %}{{ ns.s }}",
      "{% set ns = namespace(s=[1]) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}{% endfor "
      "%}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
      "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaa' * 100 }}{% endfor %}",
      "{{ range(1000000000) }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 2 ** 100000000000 }}",
      "{% set ns = namespace() %}{% set ns.n = ns %}{{ ns.n.n.n }}{% for i in range(99999) %}{{ "
      "messages|tojson(indent=40) }}{% endfor %}",
      "{% set s = 'x' * 1000000 %}{% for i in range(99999) %}{{ s.replace('x', 'yy')|length }}{% "
      "endfor %}",
  };
  for (const char* text : templates) {
    INFO(text);
    const auto start = std::chrono::steady_clock::now();
    const Result<std::string> result = render(text);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    REQUIRE_FALSE(result);
    CHECK(result.error().code() == ErrorCode::oversize);
    CHECK(took.count() < 30);
  }
  const std::string deep[] = {"{{ " + repeat("(", 100'000) + " }}",
                              "{{ " + repeat("[", 50'000) + repeat("]", 50'000) + " }}",
                              "{{ " + repeat("not ", 50'000) + "1 }}",
                              "{{ " + repeat("-", 100'000) + "1 }}",
                              "{{ 1" + repeat("+1", 100'000) + " }}",
                              repeat("{% if 1 %}", 20'000),
                              "{{ a" + repeat(".a", 100'000) + " }}",
                              "{{ 1" + repeat("|string", 20'000) + " }}",
                              "{{ 1" + repeat(" if 1 else 1", 20'000) + " }}",
                              std::string(300'000, 'x')};
  for (const std::string& text : deep) {
    INFO(text.substr(0, 40));
    const Result<std::string> result = render(text);
    REQUIRE_FALSE(result);
    CHECK(result.error().code() == ErrorCode::bad_model);
  }
}

TEST_CASE("What surrounds the messages comes from the options") {
  CHECK(render("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ add_generation_prompt }}",
               {.add_generation_prompt = false, .bos_token = "<s>", .eos_token = "</s>"})
            .value() == "<s>Hi</s>False");
  CHECK(render("{{ n + 1 }}", {.variables_json = R"({"n":41})"}).value() == "42");
  CHECK(render("x", {.variables_json = "[]"}).error().message() ==
        "variables_json: wanted an object, got an array");
  const ChatTemplate t = ChatTemplate::parse("{{ messages[0].content }}").value();
  const std::vector<ChatMessage> broken{{"user", "a\xFF", ""}};
  CHECK(t.apply(broken).value() == "a\uFFFD");
  const std::vector<ChatMessage> bad{{"user", "a", "{"}};
  CHECK(t.apply(bad).error().code() == ErrorCode::invalid_argument);
}

TEST_CASE("Damaged templates do no harm") {
  std::ifstream in(std::string(CIUIC_SOURCE_DIR) + "/tests/golden/chat/cases.jsonl");
  std::vector<std::string> templates;
  for (std::string line; std::getline(in, line);) {
    templates.push_back(JsonValue::parse(line)->find("template")->as_string());
  }
  std::mt19937 random(5);
  std::size_t rendered = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = templates[random() % templates.size()];
    if (text.empty()) continue;
    for (int n = 1 + static_cast<int>(random() % 3); n > 0; --n) {
      const std::size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random() % 128);
          break;
        case 1:
          text.erase(at, random() % 8);
          break;
        default:
          text.insert(at, templates[random() % templates.size()].substr(0, random() % 30));
      }
      if (text.empty()) text = "x";
    }
    rendered += render(text).has_value();
  }
  std::printf("%zu of 3000 damaged templates still render\n", rendered);
}
