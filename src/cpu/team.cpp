#include "cpu/team.hpp"

#include <new>
#include <vector>

namespace ciuic::inline CIUIC_ABI::cpu {
namespace {

constexpr double kShareNanoseconds = 4'000;  ///< below this a job is not offered to anybody
constexpr double kWakeNanoseconds = 30'000;  ///< below this nobody is woken for it
constexpr Duration kSpinTime = std::chrono::microseconds(150);
constexpr unsigned kMaxSpins = 1u << 16;  ///< in case the host's clock stands still
constexpr unsigned kSpinsPerClockRead = 32;
constexpr unsigned kSpinsPerYield = 1024;

// The gate: bit 0 open, bits 1 … 15 helpers inside (in steps of 2), the rest counts jobs.
constexpr std::uint64_t kOpen = 1, kHelper = 2, kHelpers = 0xFFFE, kEpoch = 0x10000;
constexpr int kMaxThreads = 1024;

// A task on the executor. One that is still waiting there when the team ends is abandoned: it may
// run after everything the host lent is gone, and touches none of it.
constexpr int kIdle = 0, kPosted = 1, kRunning = 2;

constexpr std::uint64_t epoch_of(std::uint64_t gate) noexcept { return gate / kEpoch; }

/// What is left of one member's share of a job: items [begin, end), as begin + 2^32 end. The member
/// takes them in order, so that what it streams goes on where it was; others take from the end.
struct Share {
  static constexpr std::size_t kMaxItems = 0xFFFF'FFFF;

  alignas(64) Atomic<std::uint64_t> left{0};

  void set(std::size_t begin, std::size_t end) noexcept {
    left.store(begin | std::uint64_t{end} << 32, std::memory_order_relaxed);
  }
  bool claim(bool mine, std::size_t grain, std::size_t& begin, std::size_t& end) noexcept {
    std::uint64_t now = left.load(std::memory_order_relaxed), then = 0;
    do {
      begin = now & kMaxItems;
      end = now >> 32;
      if (begin == end) return false;
      if (mine) {
        end = end - begin < grain ? end : begin + grain;
        then = end | (now >> 32) << 32;
      } else {
        const std::size_t first = begin;
        begin = end - begin < grain ? begin : end - grain;
        then = first | std::uint64_t{begin} << 32;
      }
    } while (!left.compare_exchange_weak(now, then, std::memory_order_relaxed,
                                         std::memory_order_relaxed));
    return true;
  }
};

}  // namespace

struct Team::Shared {
  Shared(const HostContext& context, std::size_t floats) : host(context), scratch_floats(floats) {}

  float* scratch_of(std::size_t member) noexcept {
    return scratch.as<float>().data() + member * scratch_floats;
  }
  void work(std::size_t member) noexcept {
    const Job mine = job;
    const std::size_t members = member_count();
    for (std::size_t i = 0; i < members; ++i) {
      Share& share = shares[(member + i) % members];
      std::size_t begin = 0, end = 0;
      while (share.claim(i == 0, mine.grain, begin, end))
        mine.call(mine.context, begin, end, scratch_of(member));
    }
  }
  std::size_t member_count() const noexcept { return 1 + threads.size() + posted.size(); }
  /// Joins the job of `gate` if it is open and not the one of `seen`; true when it did.
  bool try_work(std::size_t member, std::uint64_t& seen) noexcept {
    std::uint64_t now = gate.load(std::memory_order_relaxed);
    if ((now & kOpen) == 0 || epoch_of(now) == seen) return false;
    if (!gate.compare_exchange_weak(now, now + kHelper, std::memory_order_acquire,
                                    std::memory_order_relaxed)) {
      return false;
    }
    seen = epoch_of(now);
    work(member);
    gate.fetch_sub(kHelper, std::memory_order_release);
    return true;
  }
  /// Helps with jobs until none came for a while, or the team ends.
  void spin(std::size_t member, std::uint64_t& seen) noexcept {
    const unsigned per_yield = crowded ? 16 : kSpinsPerYield;
    TimePoint start = host.clock->now();
    for (unsigned spins = 1; spins < kMaxSpins; ++spins) {
      if (stopping.load(std::memory_order_relaxed)) return;
      if (try_work(member, seen)) {
        start = host.clock->now();
        spins = 0;
        continue;
      }
      spin_pause();
      if (spins % per_yield == 0) yield_thread();
      if (spins % kSpinsPerClockRead == 0 && host.clock->now() - start > kSpinTime) return;
    }
  }
  void run_thread(std::size_t member) noexcept {
    std::uint64_t seen = 0;
    while (!stopping.load(std::memory_order_relaxed)) {
      spin(member, seen);
      Lock lock(mutex);
      // Pairs with `open`: either the opener sees this sleeper, or the sleeper sees the open gate.
      sleepers.fetch_add(1, std::memory_order_seq_cst);
      const unsigned call = calls;
      for (;;) {
        const std::uint64_t now = gate.load(std::memory_order_seq_cst);
        if ((now & kOpen) != 0 && epoch_of(now) != seen) break;
        if (stopping.load(std::memory_order_relaxed)) break;
        wake.wait(lock);
        if (calls != call) break;  // the job may be over by now: spin for the next one
      }
      sleepers.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  void run_posted(std::size_t i) noexcept {
    int state = kPosted;
    if (!posted[i].compare_exchange_strong(state, kRunning, std::memory_order_acquire)) return;
    std::uint64_t seen = 0;
    spin(i + 1, seen);
    posted[i].store(kIdle, std::memory_order_release);
  }

  const HostContext host;
  const std::size_t scratch_floats;
  Buffer scratch;
  std::vector<Thread> threads;      // own helpers, or
  std::vector<Atomic<int>> posted;  // state of each task on the executor
  bool crowded = false;             // more threads than processors: spinning must give way

  Job job{};  // written, as the shares, only while the gate is closed and nobody is inside
  std::vector<Share> shares;  // one for each member
  alignas(64) Atomic<std::uint64_t> gate{0};
  alignas(64) Atomic<bool> stopping{false};
  Atomic<unsigned> sleepers{0};
  Mutex mutex;
  CondVar wake;
  unsigned calls CIUIC_GUARDED_BY(mutex) = 0;
};

Result<Team> Team::make(int threads, std::size_t scratch_floats, const HostContext& host) noexcept {
  if (threads == 0) threads = static_cast<int>(hardware_threads());
  if (threads > kMaxThreads) threads = kMaxThreads;
  const std::size_t members = static_cast<std::size_t>(threads);
  try {
    auto shared = std::make_shared<Shared>(host, scratch_floats);
    Result<Buffer> scratch =
        Buffer::allocate(*host.memory, members * scratch_floats * sizeof(float));
    if (!scratch) return std::move(scratch).error();
    shared->scratch = *std::move(scratch);
    shared->crowded = members > hardware_threads();
    shared->shares = std::vector<Share>(members);
    Team team(shared);
    if (host.executor != nullptr) {
      shared->posted = std::vector<Atomic<int>>(members - 1);
      return team;
    }
    shared->threads.reserve(members - 1);
    for (std::size_t member = 1; member < members; ++member) {
      Shared* const state = shared.get();
      Result<Thread> thread = Thread::start([state, member] { state->run_thread(member); });
      if (!thread) break;
      shared->threads.push_back(*std::move(thread));
    }
    return team;
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::out_of_memory, "make_queue: no memory for the thread team");
  }
}

Team::~Team() {
  if (shared_ == nullptr) return;
  {
    Lock lock(shared_->mutex);
    shared_->stopping.store(true, std::memory_order_relaxed);
    shared_->wake.notify_all();
  }
  shared_->threads.clear();  // joins
  for (Atomic<int>& task : shared_->posted) {
    int state = kPosted;
    if (task.compare_exchange_strong(state, kIdle, std::memory_order_acquire)) continue;
    while (task.load(std::memory_order_acquire) == kRunning) yield_thread();
  }
  shared_->scratch = Buffer();
}

std::size_t Team::size() const noexcept {
  return 1 + shared_->threads.size() + shared_->posted.size();
}

void Team::run_job(const Job& job, double nanoseconds) noexcept {
  Shared& shared = *shared_;
  const std::size_t helpers = shared.threads.size() + shared.posted.size();
  if (helpers == 0 || job.items <= job.grain || job.items > Share::kMaxItems ||
      nanoseconds < kShareNanoseconds) {
    for (std::size_t begin = 0; begin < job.items; begin += job.grain) {
      const std::size_t left = job.items - begin;
      job.call(job.context, begin, begin + (left < job.grain ? left : job.grain),
               shared.scratch_of(0));
    }
    return;
  }
  shared.job = job;
  for (std::size_t member = 0; member <= helpers; ++member) {
    shared.shares[member].set(job.items * member / (helpers + 1),
                              job.items * (member + 1) / (helpers + 1));
  }
  const std::uint64_t epoch = epoch_of(shared.gate.load(std::memory_order_relaxed)) + 1;
  shared.gate.store(epoch * kEpoch + kOpen, std::memory_order_seq_cst);
  if (nanoseconds >= kWakeNanoseconds) {
    if (shared.sleepers.load(std::memory_order_seq_cst) != 0) {
      Lock lock(shared.mutex);
      ++shared.calls;
      shared.wake.notify_all();
    }
    for (std::size_t i = 0; i < shared.posted.size(); ++i) {
      int state = kIdle;
      if (!shared.posted[i].compare_exchange_strong(state, kPosted, std::memory_order_acquire))
        continue;
      const bool taken = shared.host.executor->post([keep = shared_, i] { keep->run_posted(i); });
      if (!taken) shared.posted[i].store(kIdle, std::memory_order_relaxed);
    }
  }
  shared.work(0);
  // Close the door, then wait for those inside to finish the chunk they hold.
  std::uint64_t gate = shared.gate.fetch_and(~kOpen, std::memory_order_acquire) & ~kOpen;
  for (unsigned spins = 1; (gate & kHelpers) != 0; ++spins) {
    spin_pause();
    if (spins % (shared.crowded ? 16 : kSpinsPerYield) == 0) yield_thread();
    gate = shared.gate.load(std::memory_order_acquire);
  }
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
