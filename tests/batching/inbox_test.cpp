// Inbox by hand: what a push says, and when the bell is due. Its races: schedule_test.cpp.
#include "ciuic/batching/inbox.hpp"

#include <vector>

#include "support/catch.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using Pushed = Inbox::Pushed;

namespace {

std::vector<std::uint32_t> drain(Inbox& inbox, std::uint64_t cost = 1) {
  std::vector<std::uint32_t> tickets;
  inbox.drain([](std::uint32_t) {},
              [&](std::uint32_t ticket) {
                tickets.push_back(ticket);
                inbox.note_cost(cost);
              });
  return tickets;
}

}  // namespace

TEST_CASE("Tickets leave in the order they came, and count against the capacity until they do") {
  Inbox inbox(8, 3);
  for (std::uint32_t ticket : {5u, 2u, 7u}) CHECK(inbox.push(ticket, 1, kNever) == Pushed::quietly);
  CHECK(inbox.push(1, 1, kNever) == Pushed::full);
  CHECK(drain(inbox) == std::vector<std::uint32_t>{5, 2, 7});
  CHECK(inbox.drained() == 3);
  inbox.set_waiting(2);
  CHECK(inbox.push(1, 1, kNever) == Pushed::quietly);
  CHECK(inbox.push(0, 1, kNever) == Pushed::full);
  CHECK(inbox.accepted() == 4);
  CHECK(inbox.pushed() == 4);
  inbox.close();
  CHECK(inbox.closed());
  CHECK(inbox.push(0, 1, kNever) == Pushed::closed);
  CHECK(drain(inbox) == std::vector<std::uint32_t>{1});
  CHECK(inbox.empty());
}

TEST_CASE("The bell is due at its count, once") {
  Inbox inbox(8, 8);
  CHECK(inbox.push(0, 1, kNever) == Pushed::quietly);
  drain(inbox);
  REQUIRE(inbox.arm(2, Inbox::kNoCost, TimePoint(5s)));
  CHECK(inbox.push(1, 1, kNever) == Pushed::quietly);
  CHECK(inbox.push(2, 1, kNever) == Pushed::due);
  CHECK(inbox.push(3, 1, kNever) == Pushed::quietly);
  CHECK_FALSE(inbox.arm(1, Inbox::kNoCost, kNever));  // something is there
  drain(inbox);
  REQUIRE(inbox.arm(1, Inbox::kNoCost, kNever));
  inbox.disarm();
  CHECK(inbox.push(4, 1, kNever) == Pushed::quietly);
}

TEST_CASE("The bell is due at its cost, counted from what was drained") {
  Inbox inbox(8, 8);
  CHECK(inbox.push(0, 4, kNever) == Pushed::quietly);
  drain(inbox, 4);
  REQUIRE(inbox.arm(Inbox::kNoCount, 6, kNever - 1ns));
  CHECK(inbox.push(1, 5, kNever) == Pushed::quietly);
  CHECK(inbox.push(2, 1, kNever) == Pushed::due);
  drain(inbox, 3);
  REQUIRE(inbox.arm(Inbox::kNoCount, Inbox::kNoCost, kNever - 1ns));  // does not wrap
  CHECK(inbox.push(3, 9, kNever) == Pushed::quietly);
}

TEST_CASE("The bell counts costs of one, of none and of more alike") {
  Inbox inbox(8, 8);
  for (std::uint32_t ticket : {0u, 1u}) inbox.push(ticket, ticket, kNever);
  inbox.drain([](std::uint32_t) {}, [&](std::uint32_t ticket) { inbox.note_cost(ticket); });
  REQUIRE(inbox.arm(Inbox::kNoCount, 5, kNever - 1ns));
  for (std::uint64_t cost : {0u, 1u, 0u, 1u, 2u}) {
    CHECK(inbox.push(static_cast<std::uint32_t>(inbox.pushed()), cost, kNever) == Pushed::quietly);
  }
  CHECK(inbox.push(7, 1, kNever) == Pushed::due);
}

TEST_CASE("The bell is due for a deadline before its time") {
  Inbox inbox(8, 8);
  REQUIRE(inbox.arm(Inbox::kNoCount, Inbox::kNoCost, TimePoint(5s)));
  CHECK(inbox.push(0, 1, TimePoint(5s)) == Pushed::quietly);
  CHECK(inbox.push(1, 1, TimePoint(5s) - 1ns) == Pushed::due);
}
