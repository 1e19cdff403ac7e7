// BatcherStats: every counter, while it runs too, as a table and as Prometheus text.
#include <atomic>
#include <clocale>
#include <cmath>
#include <map>
#include <new>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "ciuic/batching/prometheus.hpp"
#include "support/batching.hpp"
#include "support/catch.hpp"
#include "support/manual_clock.hpp"

using namespace ciuic;
using namespace std::chrono_literals;
using namespace ciuic::testing;

namespace {

/// Foretells 3 ms, whatever the batch.
struct ThreeMilliseconds final : BatchPolicy {
  BatchDecision decide(const QueueView&) noexcept override { return {.dispatch = true}; }
  TimePoint expected_finish(const QueueView& view, std::uint64_t) noexcept override {
    return view.now + 3ms;
  }
  BatchForecast forecast(const BatchShape&) noexcept override {
    return {.mean = 3ms, .upper = 3ms, .known = true};
  }
};

/// A life in which everything happens that can, told by hand.
BatcherStats story() {
  ManualClock clock;
  const unsigned workers = 0;
  DynamicBatcher<int, int> batcher(
      [&](std::span<const int> in) {
        clock.advance(2ms);
        if (in.size() > 3) throw std::bad_alloc();
        for (int x : in) {
          if (x < 0) throw std::runtime_error("negative");
        }
        return doubled(in);
      },
      {.max_batch_size = 4,
       .max_batch_cost = 20,
       .queue_capacity = 4,
       .overload = Overload::shed,
       .on_failure = OnFailure::bisect,
       .max_groups = 2,
       .workers = workers,
       .host = {.clock = &clock}},
      ThreeMilliseconds());
  std::vector<Future<int>> kept;
  const auto submit = [&](int x, const SubmitOptions& options = {}) {
    kept.push_back(batcher.submit(x, options));
  };
  // Four, then one too many: the oldest is shed. Six milliseconds in the queue for each.
  for (int i = 0; i < 4; ++i) submit(i, {.cost = static_cast<std::uint64_t>(i + 1)});
  submit(4, {.cost = 5});
  submit(5, {.priority = Priority::low});  // all that wait matter more
  clock.advance(6ms);
  batcher.run_one();  // four run out of memory, two and two pass: 3 runs, 6 ms
  submit(6, {.timeout = 4ms});
  submit(7);
  kept.back().cancel();
  clock.advance(4ms);
  batcher.run_one();  // nothing is left
  submit(8);
  submit(-9);
  batcher.run_one();  // both fail, then the one alone: 3 runs, 6 ms
  batcher.submit(10).on_ready([](const Result<int>&) { throw 1; });
  batcher.run_one();
  // Never accepted.
  std::stop_source stop;
  stop.request_stop();
  submit(0, {.cost = 21});
  submit(0, {.group = 2});
  submit(0, {.timeout = 0ms});
  submit(0, {.timeout = 1ms});
  submit(0, {.timeout = -1ms});
  submit(0, {.stop_token = stop.get_token()});
  submit(11);
  CHECK(batcher.stop());
  submit(0);
  return batcher.stats();
}

}  // namespace

TEST_CASE("stats: every counter, in a life in which everything happens") {
  const BatcherStats stats = story();
  CHECK(stats.submitted == 11);
  CHECK(stats.completed == 4 + 1 + 1);
  CHECK(stats.failed == 1);
  CHECK(stats.cancelled == 1);
  CHECK(stats.expired == 1);
  CHECK(stats.late == 0);
  CHECK(stats.shed == 1);
  CHECK(stats.shut_down == 1);
  CHECK(stats.pending() == 0);
  CHECK(stats.rejected[Refusal::queue_full] == 1);
  CHECK(stats.rejected[Refusal::oversize] == 1);
  CHECK(stats.rejected[Refusal::unknown_group] == 1);
  CHECK(stats.rejected[Refusal::expired] == 1);
  CHECK(stats.rejected[Refusal::infeasible] == 1);
  CHECK(stats.rejected[Refusal::shutting_down] == 1);
  CHECK(stats.rejected.invalid == 1);
  CHECK(stats.rejected.cancelled == 1);
  CHECK(stats.rejected.total() == 8);
  CHECK(stats.batches() == 3);
  CHECK(stats.closed_by(CloseReason::full) == 1);
  CHECK(stats.closed_by(CloseReason::policy) + stats.closed_by(CloseReason::memory) == 2);
  CHECK(stats.batched_requests == 4 + 2 + 1);
  CHECK(stats.batched_cost == (2 + 3 + 4 + 5) + 2 + 1);
  CHECK(stats.padded_cost == 4 * 5 + 2 + 1);
  CHECK(stats.padding() == Approx(1.0 - 17.0 / 23.0));
  CHECK(stats.total_wait == 4 * 6ms);
  CHECK(stats.mean_wait() == Duration(24ms) / 7);
  CHECK(stats.runs == 3 + 3 + 1);
  CHECK(stats.extra_runs == 4);
  CHECK(stats.out_of_memory == 1);
  CHECK(stats.total_execution == 7 * 2ms);
  CHECK(stats.mean_execution() == 2ms);
  CHECK(stats.callbacks_failed == 1);
  CHECK(stats.max_batch_size == 4);
  CHECK(stats.mean_batch() == Approx(7.0 / 3.0));
  CHECK(stats.fill() == Approx(7.0 / 12.0));
  // Foretold 3 ms; of the three batches the first two were split, the last took 2 ms.
  CHECK(stats.forecasts == 1);
  CHECK(stats.total_forecast_error == 1ms);
  CHECK(stats.total_forecast_actual == 2ms);
  CHECK(stats.forecast_error() == Approx(0.5));
  CHECK(stats.wait_ns.total() == 7);
  CHECK(stats.wait_ns[HistogramCounts::bucket_of(6000000)] == 4);
  CHECK(stats.execution_ns[HistogramCounts::bucket_of(2000000)] == 7);
  CHECK(stats.batch_sizes[4] == 1);
  CHECK(stats.batch_sizes[2] == 1);
  CHECK(stats.batch_sizes[1] == 1);
}

TEST_CASE("stats: the table names what happened, and nothing that did not") {
  const std::string all = to_string(story());
  for (const char* row :
       {"shed", "queue full", "oversize", "unknown group", "infeasible", "invalid", "by full",
        "extra runs", "out of memory", "callbacks failed", "forecast error", "shutting down"}) {
    CAPTURE(row, all);
    CHECK(all.find(row) != std::string::npos);
  }
  const std::string none = to_string(BatcherStats());
  for (const char* row :
       {"shed", "queue full", "by ", "extra runs", "out of memory", "callbacks"}) {
    CAPTURE(row, none);
    CHECK(none.find(row) == std::string::npos);
  }
}

TEST_CASE("stats: are read while the batcher runs, and never show more ends than beginnings") {
  DynamicBatcher<int, int> batcher(doubled,
                                   {.max_batch_size = 4, .min_batch_size = 1, .workers = 2});
  std::atomic<bool> over{false};
  std::atomic<int> wrong{0}, readings{0};
  Thread reader = *Thread::start([&] {
    while (!over) {
      const BatcherStats now = batcher.stats();
      const std::uint64_t ended = now.completed + now.cancelled;
      if (ended > now.submitted || now.pending() > 1000000) ++wrong;
      ++readings;
    }
  });
  for (int i = 0; i < 500 || readings < 10; ++i) {
    Future<int> future = batcher.submit(i);
    if (i % 3 == 0) future.cancel();
    static_cast<void>(future.get());
  }
  over = true;
  reader.join();
  CHECK(wrong == 0);
}

namespace {

/// One line of a page.
struct Sample {
  std::string name;
  std::map<std::string, std::string> labels;
  double value;
};
/// What a page says, by the grammar of Prometheus' text format 0.0.4; throws where it does not
/// obey.
struct Page {
  std::map<std::string, std::string> types;
  std::set<std::string> helped;
  std::vector<Sample> samples;

  explicit Page(const std::string& text) {
    need(!text.empty() && text.back() == '\n', "the last line must end");
    std::istringstream lines(text);
    std::string family;
    std::set<std::string> closed;
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind("# ", 0) == 0) {
        std::istringstream words(line.substr(2));
        std::string what, name, rest;
        words >> what >> name >> rest;
        need(!rest.empty(), "a comment of HELP or TYPE has text");
        if (name != family) {
          need(closed.insert(name).second, "a family comes in one piece");
          family = name;
        }
        if (what == "HELP") {
          need(helped.insert(name).second, "one HELP each");
        } else {
          need(what == "TYPE" && types.emplace(name, rest).second, "one TYPE each");
        }
        continue;
      }
      samples.push_back(sample(line));
      const std::string& name = samples.back().name;
      bool own = name == family;
      if (types[family] == "histogram") {
        own = name == family + "_bucket" || name == family + "_sum" || name == family + "_count";
      }
      need(own, "a sample follows its family's TYPE");
    }
    std::set<std::pair<std::string, std::map<std::string, std::string>>> seen;
    for (const Sample& s : samples) need(seen.emplace(s.name, s.labels).second, "no sample twice");
  }
  double value(const std::string& name, const std::map<std::string, std::string>& labels) const {
    for (const Sample& s : samples) {
      if (s.name == name && s.labels == labels) return s.value;
    }
    throw std::runtime_error("no sample " + name);
  }

 private:
  static void need(bool fine, const char* rule) {
    if (!fine) throw std::runtime_error(rule);
  }
  static bool is_name(const std::string& name) {
    if (name.empty() || std::isdigit(static_cast<unsigned char>(name[0]))) return false;
    for (const char c : name) {
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_') return false;
    }
    return true;
  }
  static Sample sample(const std::string& line) {
    Sample s;
    std::size_t at = line.find('{');
    need(at != std::string::npos, "every sample of ours has labels");
    s.name = line.substr(0, at);
    need(is_name(s.name), "a name of letters, digits and underscores");
    do {
      const std::size_t equals = line.find("=\"", at);
      need(equals != std::string::npos, "label=\"value\"");
      const std::string label = line.substr(at + 1, equals - at - 1);
      need(is_name(label), "a label's name");
      std::string value;
      for (at = equals + 2; line.at(at) != '"'; ++at) {
        if (line[at] == '\\') {
          ++at;
          need(line.at(at) == 'n' || line[at] == '\\' || line[at] == '"', "an escape");
          value += line[at] == 'n' ? '\n' : line[at];
        } else {
          value += line[at];
        }
      }
      need(s.labels.emplace(label, value).second, "a label once");
      ++at;
    } while (line.at(at) == ',');
    need(line.substr(at, 2) == "} ", "} and a space");
    const std::string number = line.substr(at + 2);
    need(!number.empty() && number.find_first_not_of("0123456789.") == std::string::npos,
         "a number, with a point if any");
    std::istringstream in(number);
    in.imbue(std::locale::classic());
    in >> s.value;
    need(in.eof() && !in.fail(), "nothing but a number");
    return s;
  }
};

/// le of every bucket of a histogram, in the order of the page, and its cumulative count.
std::vector<std::pair<double, double>> buckets(const Page& page, const std::string& name,
                                               const std::string& batcher) {
  std::vector<std::pair<double, double>> out;
  for (const Sample& s : page.samples) {
    if (s.name != name + "_bucket" || s.labels.at("batcher") != batcher) continue;
    const std::string& le = s.labels.at("le");
    out.emplace_back(le == "+Inf" ? HUGE_VAL : std::stod(le), s.value);
  }
  return out;
}

}  // namespace

TEST_CASE("prometheus: the page obeys the format and says what the stats say") {
  const BatcherStats stats = story();
  const std::string text = to_prometheus(stats, "encoder");
  const Page page(text);
  const std::map<std::string, std::string> plain{{"batcher", "encoder"}};
  const auto labelled = [&](const char* label, const char* value) {
    return std::map<std::string, std::string>{{"batcher", "encoder"}, {label, value}};
  };
  const std::string p = "ciuic_batcher_";
  CHECK(page.types.size() == page.helped.size());
  CHECK(page.types.at(p + "submitted_total") == "counter");
  CHECK(page.types.at(p + "pending_requests") == "gauge");
  CHECK(page.types.at(p + "wait_seconds") == "histogram");
  CHECK(page.value(p + "submitted_total", plain) == 11);
  CHECK(page.value(p + "requests_total", labelled("outcome", "completed")) == 6);
  CHECK(page.value(p + "requests_total", labelled("outcome", "failed")) == 1);
  CHECK(page.value(p + "requests_total", labelled("outcome", "cancelled")) == 1);
  CHECK(page.value(p + "requests_total", labelled("outcome", "expired")) == 1);
  CHECK(page.value(p + "requests_total", labelled("outcome", "shed")) == 1);
  CHECK(page.value(p + "requests_total", labelled("outcome", "shut_down")) == 1);
  CHECK(page.value(p + "pending_requests", plain) == 0);
  CHECK(page.value(p + "rejected_total", labelled("reason", "queue_full")) == 1);
  CHECK(page.value(p + "rejected_total", labelled("reason", "unknown_group")) == 1);
  CHECK(page.value(p + "rejected_total", labelled("reason", "invalid")) == 1);
  CHECK(page.value(p + "batches_total", labelled("reason", "full")) == 1);
  CHECK(page.value(p + "cost_total", plain) == 17);
  CHECK(page.value(p + "padded_cost_total", plain) == 23);
  CHECK(page.value(p + "extra_runs_total", plain) == 4);
  CHECK(page.value(p + "out_of_memory_total", plain) == 1);
  CHECK(page.value(p + "callbacks_failed_total", plain) == 1);
  CHECK(page.value(p + "forecast_error_seconds_total", plain) == Approx(0.001));
  CHECK(page.value(p + "wait_seconds_sum", plain) == Approx(0.024));
  CHECK(page.value(p + "wait_seconds_count", plain) == 7);
  CHECK(page.value(p + "execution_seconds_sum", plain) == Approx(0.014));
  CHECK(page.value(p + "batch_size_sum", plain) == 7);
  CHECK(page.value(p + "batch_size_count", plain) == 3);
  double rejected = 0;
  for (const Sample& s : page.samples) {
    if (s.name == p + "rejected_total") rejected += s.value;
  }
  CHECK(rejected == 8);

  for (const char* name : {"wait_seconds", "execution_seconds", "batch_size"}) {
    const auto all = buckets(page, p + name, "encoder");
    CAPTURE(name);
    REQUIRE(all.size() > 3);
    for (std::size_t i = 1; i < all.size(); ++i) {
      CHECK(all[i - 1].first < all[i].first);
      CHECK(all[i - 1].second <= all[i].second);
    }
    CHECK(all.back().first == HUGE_VAL);
    CHECK(all.back().second == page.value(p + name + "_count", plain));
  }
  // Three waited for nothing and four for 6 ms, batches held 1, 2 and 4: counted by hand.
  for (const auto& [le, count] : buckets(page, p + "wait_seconds", "encoder")) {
    CHECK(count == (le < 0.006 ? 3 : 7));
  }
  for (const auto& [le, count] : buckets(page, p + "batch_size", "encoder")) {
    CHECK(count == (le < 2 ? 1 : le < 4 ? 2 : 3));
  }
}

TEST_CASE("prometheus: several batchers share a page, whatever they are called") {
  const std::string nasty = "a \"b\" \\ c\nd {le=\"1\"} #, ü";
  BatcherStats busy;
  busy.submitted = 7;
  const std::vector<NamedBatcherStats> both{{nasty, busy}, {"", BatcherStats()}};
  const Page page(to_prometheus(both));
  CHECK(page.value("ciuic_batcher_submitted_total", {{"batcher", nasty}}) == 7);
  CHECK(page.value("ciuic_batcher_submitted_total", {{"batcher", ""}}) == 0);
  CHECK(to_prometheus(std::vector<NamedBatcherStats>()).find('{') == std::string::npos);
}

TEST_CASE("prometheus: numbers have points, also where the locale writes commas") {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  const BatcherStats stats = story();
  const std::string plain = to_prometheus(stats, "x");
  for (const char* locale : {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8"}) {
    if (std::setlocale(LC_ALL, locale) == nullptr) continue;  // not on this machine
    CHECK(to_prometheus(stats, "x") == plain);
  }
  std::setlocale(LC_ALL, before.c_str());
  CHECK(plain.find("ciuic_batcher_wait_seconds_sum{batcher=\"x\"} 0.024000000\n") !=
        std::string::npos);
}

TEST_CASE("prometheus: large values keep every digit") {
  BatcherStats stats;
  stats.submitted = 18446744073709551615u;
  stats.completed = 18446744073709551615u;
  stats.total_wait = Duration::max();
  const std::string text = to_prometheus(stats, "x");
  CHECK(text.find("submitted_total{batcher=\"x\"} 18446744073709551615\n") != std::string::npos);
  CHECK(text.find("wait_seconds_sum{batcher=\"x\"} 9223372036.854775807\n") != std::string::npos);
}
