#include "support/fake_backend.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "ops/op_cases.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

/// Runs `body` in a child process; true when it was killed for touching memory it may not.
template <class Body>
bool faults(const Body& body) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    std::signal(SIGBUS, SIG_DFL);
    body();
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

}  // namespace

TEST_CASE("The fake device passes every operation's tests") {
  const unsigned seed = fresh_seed();
  const auto backend = fake_backend();
  for (int threads : {1, 2}) {
    const OpTarget target{"fake, " + std::to_string(threads) + " threads", backend, threads};
    check_all_operations(target, seed, 2);
    check_errors(target);
  }
}

TEST_CASE("The host cannot read or write the fake device's memory") {
  const OpTarget target{"fake", fake_backend(), 1};
  OpRunner run(target);
  const DeviceTensor tensor = run.put({4}, std::vector<float>{1, 2, 3, 4});
  const auto read = [&] {
    volatile float value = *reinterpret_cast<volatile float*>(tensor.memory.data());
    (void)value;
  };
  CHECK(faults(read));
  CHECK(faults([&] { *reinterpret_cast<volatile float*>(tensor.memory.data()) = 0.0f; }));
  CHECK(run.get(tensor) == std::vector<float>{1, 2, 3, 4});
  CHECK(faults(read));  // closed again after the device has worked
  const std::vector<float> weights(6, 1.0f);
  const auto packed = run.pack(weights, 2, 3);
  CHECK(faults(read));
  CHECK_FALSE(faults([] {}));
}

TEST_CASE("A host buffer changed before the fake device was waited for is noticed") {
  const OpTarget target{"fake", fake_backend(), 1};
  OpRunner run(target);
  const DeviceTensor tensor = run.make({2});
  std::vector<float> host = {1, 2};
  run.queue().copy_to_device(tensor.memory.data(), std::as_bytes(std::span(host)));
  host[0] = 7;  // too early
  CHECK(run.get(tensor) == std::vector<float>{7, 2});

  std::vector<float> back = {0, 0};
  run.queue().copy_to_host(std::as_writable_bytes(std::span(back)), tensor.memory.data());
  CHECK(back[0] == 0.0f);  // nothing has been executed yet
  run.finish();
  CHECK(back[0] == 7.0f);
}

TEST_CASE("The fake device's fresh memory is not a number") {
  const OpTarget target{"fake", fake_backend(), 1};
  OpRunner run(target);
  const DeviceTensor tensor = run.make({33});
  for (float value : run.get(tensor)) CHECK(value != value);
}

TEST_CASE("Events of the fake device order queues and finish when waited for or polled") {
  const OpTarget target{"fake", fake_backend(), 1};
  OpRunner first(target), second(target);
  const DeviceTensor tensor = first.make({1});
  const float one = 1.0f, two = 2.0f;
  float got = 0.0f;
  first.queue().copy_to_device(tensor.memory.data(), std::as_bytes(std::span(&one, 1)));
  const auto event = first.queue().record().value();
  first.queue().copy_to_device(tensor.memory.data(), std::as_bytes(std::span(&two, 1)));
  CHECK_FALSE(event->is_done());
  second.queue().wait(*event);
  second.queue().copy_to_host(std::as_writable_bytes(std::span(&got, 1)), tensor.memory.data());
  second.finish();
  CHECK(got == 1.0f);  // the write after the event has not happened
  CHECK(event->is_done());

  const auto last = first.queue().record().value();
  int polls = 1;
  while (!last->is_done()) ++polls;
  CHECK(polls > 1);
  CHECK(first.get(tensor) == std::vector<float>{2.0f});
  const auto waited = first.queue().record().value();
  waited->wait();
  CHECK(waited->is_done());
}
