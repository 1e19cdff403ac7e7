#include "text/pattern.hpp"

#include "support/catch.hpp"

using namespace ciuic;

namespace {
std::string cut(std::string_view expression, std::string_view text) {
  const Result<Pattern> pattern = Pattern::regex(expression);
  if (!pattern) return std::string(pattern.error().message());
  MatchScratch scratch(text.size());
  MatchIterator matches(*pattern, text, scratch);
  std::string out;
  while (true) {
    const auto match = matches.next().value();
    if (!match) return out;
    out += '[';
    out += text.substr(match->begin, match->end - match->begin);
    out += ']';
  }
}
}  // namespace

TEST_CASE("Expressions mean what they mean to Oniguruma") {
  CHECK(cut(R"(\p{N}{1,3}+)", "1234567") == "[1234567]");  // a repeat of a repeat
  CHECK(cut(R"((?i:'s|'t))", "'S'\u017F't") == "['S]['\u017F]['t]");
  CHECK(cut(R"([^\s\p{L}]+)", "a .1 b") == "[.1]");
  CHECK(cut(R"(\h)", "a") == "unsupported \"\\\\h\"");
  CHECK(cut(R"(a|)", "ba") == "[][a]");
  CHECK(cut(R"(\bx\b)", "x xy x") == "[x][x]");
  CHECK(cut(R"(a{,2})", "aaa") == "[aa][a]");
  CHECK(cut(R"(^b$)", "a\nb\nc") == "[b]");
  CHECK(cut(R"([\]\-a])", "a-]b") == "[a][-][]]");
}

TEST_CASE("What the dialects read differently is refused") {
  for (const char* expression :
       {R"([a&&b])", R"([a[b]])",   R"([[:alpha:]])", R"((?<name>a))", R"((?m:a))",
        R"(\R)",     R"(\X)",       R"(\1)",          R"(a(?i)b)",     R"((?i:ss))",
        R"((?i:ß))", R"([\P{L}a])", R"(\p{Foo})",     R"(a{2}?)",      R"((*UTF)a)",
        R"(\Ga)",    R"([])",       R"((?#c)a)",      R"(a{1001})",    R"((?i:\p{Lu}))"}) {
    const Result<Pattern> pattern = Pattern::regex(expression);
    INFO(expression);
    REQUIRE_FALSE(pattern);
    CHECK(pattern.error().code() == ErrorCode::unsupported);
  }
  for (const char* expression :
       {"(", ")", "[a", "*a", "a\\", R"(\p{L)", R"(\x{110000})", "[b-a]", "(?<=a*)b", ""}) {
    const Result<Pattern> pattern = Pattern::regex(expression);
    INFO(expression);
    REQUIRE_FALSE(pattern);
    CHECK(pattern.error().code() == ErrorCode::bad_model);
  }
}

TEST_CASE("A catastrophic expression ends in an error") {
  const Pattern pattern = Pattern::regex("(?:a|a)*b").value();
  MatchScratch scratch(5002);
  const auto found = pattern.find(std::string(5000, 'a') + "cb", 0, false, scratch);
  REQUIRE_FALSE(found);
  CHECK(found.error().code() == ErrorCode::unsupported);
}
