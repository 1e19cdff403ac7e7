#include "base/json.hpp"

#include <nlohmann/json.hpp>
#include <random>

#include "support/catch.hpp"

using namespace ciuic;

namespace {
std::string failure(std::string_view text, const JsonLimits& limits = {}) {
  Result<JsonValue> parsed = JsonValue::parse(text, limits, 1000);
  return parsed ? "" : std::string(parsed.error().message());
}
}  // namespace

TEST_CASE("A document becomes a tree that keeps the order of members") {
  const Result<JsonValue> parsed = JsonValue::parse(
      R"({"b":[1,-2,3.5,"x\u00e9"],"a":{"t":true,"n":null},"big":18446744073709551615})");
  REQUIRE(parsed);
  CHECK(parsed->members()[0].first == "b");
  const auto& items = parsed->find("b")->items();
  CHECK(items[0].as_integer() == 1);
  CHECK(items[1].as_integer() == -2);
  CHECK(items[2].as_number() == 3.5);
  CHECK(items[3].as_string() == "x\xC3\xA9");
  CHECK(parsed->find("a")->find("t")->as_boolean());
  CHECK(parsed->find("a")->find("n")->is_null());
  CHECK(parsed->find("big")->as_number() == Approx(1.8446744e19));
  CHECK(parsed->find("absent") == nullptr);
}

TEST_CASE("Malformed JSON is refused with a place") {
  CHECK(failure("{\"a\":1,\"a\":2}") == "JSON: duplicate key: \"a\"");
  CHECK(failure("{\"a\":{\"x\":1},\"b\":{\"x\":2}}").empty());
  CHECK(failure("[1,").find("malformed JSON at byte 4") == 0);
  CHECK(failure("").find("malformed JSON") == 0);
  CHECK(failure("[1] x").find("malformed JSON") == 0);
  CHECK(failure(std::string("{}\0{}", 5)) == "malformed JSON at byte 2: NUL character");
  CHECK(failure("\"\xFF\"").find("malformed JSON") == 0);
  CHECK(failure("[1e999]").find("number") != std::string::npos);
  CHECK(failure(std::string(65, '[') + std::string(65, ']')) == "JSON: nested deeper than 64");
  CHECK(failure("[\"abc\"]", {.max_string_bytes = 2}).find("string too long") != std::string::npos);
  CHECK(failure("[\"ab\",\"\\n\"]", {.max_string_bytes = 2}).empty());
  CHECK(failure("[\"a\\\"c\"]", {.max_string_bytes = 3}).find("at byte 2") != std::string::npos);
  CHECK(failure("[1." + std::string(2046, '0') + "]").empty());
  CHECK(failure("[1." + std::string(2047, '0') + "]") ==
        "JSON: literal too long: at byte 1, wanted at most 2048 bytes");
  std::string many = "[0";
  for (int i = 0; i < 1000; ++i) many += ",0";
  CHECK(failure(many + "]") == "JSON: too many values");
}

TEST_CASE("Quoted strings read back as they were") {
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    std::string text;
    for (int n = 0; n < 20; ++n) text += static_cast<char>(random() % 128);
    std::string quoted;
    append_json_string(quoted, text);
    CHECK(nlohmann::json::parse(quoted).get<std::string>() == text);
  }
}

TEST_CASE("Duplicate keys are found in objects of any size, at any depth, and only there") {
  for (int count : {2, 7, 8, 60, 70, 5000}) {
    std::string object = "{";
    for (int i = 0; i < count; ++i) object += "\"k" + std::to_string(i) + "\":null,";
    const std::string good = object + "\"last\":{\"k0\":{}}}";
    const std::string bad = object + "\"k" + std::to_string(count / 2) + "\":null}";
    CHECK(JsonValue::parse("[" + good + "," + good + "]"));
    const Result<JsonValue> refused = JsonValue::parse("[" + good + ",[" + bad + "]]");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().message() ==
          "JSON: duplicate key: \"k" + std::to_string(count / 2) + "\"");
  }
}

TEST_CASE("An excerpt is one line and never cuts a character") {
  CHECK(quoted_excerpt("a\nb") == "\"a\\nb\"");
  std::string text(59, 'x');
  text += "\u00e9\u00e9";
  CHECK(quoted_excerpt(text) == "\"" + std::string(59, 'x') + "\"…");
}
