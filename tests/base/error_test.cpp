#include "ciuic/base/error.hpp"

#include <cstring>
#include <memory>
#include <string>

#include "support/catch.hpp"

using namespace ciuic;

TEST_CASE("An error joins the parts of its message and shares them between copies") {
  const Error error(ErrorCode::bad_model, {"config.json: ", "heads", ": expected 8, got 7"});
  const Error copy = error;
  CHECK(copy.message() == "config.json: heads: expected 8, got 7");
  CHECK(copy.message().data() == error.message().data());
  CHECK(std::strlen(error.message().data()) == error.message().size());
  CHECK(error.with_prefix("dir/").message() == "dir/config.json: heads: expected 8, got 7");
}

TEST_CASE("A message is one line, whatever went into it") {
  const Error error(ErrorCode::model_failed,
                    {"model threw: ", "line 1\nline 2\r\n\tend", "\x7f\xC3\xA9"});
  CHECK(error.message() == "model threw: line 1 line 2   end\x7f\xC3\xA9");
}

TEST_CASE("An error without words says its code") {
  CHECK(Error(ErrorCode::queue_full).message() == "queue_full");
  Error moved_from(ErrorCode::expired, "late");
  const Error moved_to = std::move(moved_from);
  CHECK(moved_to.message() == "late");
}

TEST_CASE("A result is a value or an error, and value() throws the error") {
  Result<std::unique_ptr<int>> good = std::make_unique<int>(7);
  REQUIRE(good);
  CHECK(**good == 7);
  CHECK(*std::move(good).value() == 7);
  Result<int> bad = Error(ErrorCode::not_found, "no such tensor");
  CHECK_FALSE(bad);
  CHECK(std::move(bad).value_or(3) == 3);
  try {
    (void)bad.value();
    FAIL("value() of a failed result must throw");
  } catch (const BadResult& e) {
    CHECK(std::string(e.what()) == "not_found: no such tensor");
    CHECK(e.error().code() == ErrorCode::not_found);
  }
  CHECK(Result<void>());
  CHECK(Result<void>(Error(ErrorCode::cancelled)).error().code() == ErrorCode::cancelled);
}
