// The scheduler under the simulated sync seam, and the fibers it switches between.
#include "ciuic_sync_simulated.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define CIUIC_FIBERS_UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CIUIC_FIBERS_UNDER_ASAN 1
#endif
#endif
#if defined(CIUIC_FIBERS_UNDER_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// --- fibers -------------------------------------------------------------------------------------

#if defined(__x86_64__)
// Saves what a call must preserve on the stack, the stack's place in *from, and goes on at `to`.
extern "C" void ciuic_simulated_switch(void** from, void* to);
asm(R"(
.text
.globl ciuic_simulated_switch
.type ciuic_simulated_switch, @function
ciuic_simulated_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ciuic_simulated_switch, .-ciuic_simulated_switch
)");
#endif

namespace ciuic::inline CIUIC_ABI::simulated {

namespace {

/// A stack and a place on it; unprepared, it stands for the thread that runs the schedules.
class Context {
 public:
  /// The next switch to this context begins `entry`, which never returns.
  void prepare(void (*entry)()) {
    if (stack_ == nullptr || kFreshStacks) stack_.reset(new char[kBytes]);
#if defined(__x86_64__)
    const auto top = reinterpret_cast<std::uintptr_t>(stack_.get() + kBytes) & ~std::uintptr_t{15};
    void** place = reinterpret_cast<void**>(top);
    *--place = nullptr;  // where entry() would return to
    *--place = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--place = nullptr;
    place_ = place;
#else
    getcontext(&place_);
    place_.uc_stack.ss_sp = stack_.get();
    place_.uc_stack.ss_size = kBytes;
    makecontext(&place_, entry, 0);
#endif
    std::memset(exceptions_, 0, sizeof exceptions_);
#if defined(CIUIC_FIBERS_UNDER_ASAN)
    bottom_ = nullptr;
#endif
  }

  void switch_to(Context& to) noexcept {
    std::memcpy(exceptions_, abi::__cxa_get_globals(), sizeof exceptions_);
    std::memcpy(static_cast<void*>(abi::__cxa_get_globals()), to.exceptions_, sizeof exceptions_);
#if defined(CIUIC_FIBERS_UNDER_ASAN)
    void* fake_stack = nullptr;
    to.came_from_ = this;
    __sanitizer_start_switch_fiber(&fake_stack, to.bottom_ ? to.bottom_ : to.stack_.get(),
                                   to.bottom_ ? to.size_ : kBytes);
#endif
#if defined(__x86_64__)
    ciuic_simulated_switch(&place_, to.place_);
#else
    swapcontext(&place_, &to.place_);
#endif
    arrived(
#if defined(CIUIC_FIBERS_UNDER_ASAN)
        fake_stack
#endif
    );
  }
  /// To be called first by whoever runs on this context from now on.
  void arrived([[maybe_unused]] void* fake_stack = nullptr) noexcept {
#if defined(CIUIC_FIBERS_UNDER_ASAN)
    const void* bottom = nullptr;
    std::size_t size = 0;
    __sanitizer_finish_switch_fiber(fake_stack, &bottom, &size);
    came_from_->bottom_ = bottom;
    came_from_->size_ = size;
#endif
  }

 private:
#if defined(CIUIC_FIBERS_UNDER_ASAN)
  static constexpr std::size_t kBytes = 1 << 20;
  static constexpr bool kFreshStacks = true;  // old ones are full of poisoned places
  Context* came_from_ = nullptr;
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
#else
  static constexpr std::size_t kBytes = 1 << 17;
  static constexpr bool kFreshStacks = false;
#endif
  std::unique_ptr<char[]> stack_;
#if defined(__x86_64__)
  void* place_ = nullptr;
#else
  ucontext_t place_{};
#endif
  char exceptions_[2 * sizeof(void*)] = {};  // the C++ runtime's: caught, and how many uncaught
};

// --- the scheduler ------------------------------------------------------------------------------

struct Fiber {
  enum State : std::uint8_t { runnable, blocked, asleep, ended };
  State state = ended;
  bool spinning = false;  // lets everybody else go first
  bool looping = false;   // has done nothing but look since it last did so
  bool in_vain = false;   // and found the world as it was at time `seen`
  std::uint64_t seen = 0;
  std::int64_t priority = 0;
  bool (*ready)(const void*) = nullptr;  // blocked
  const void* on = nullptr;              // blocked or asleep
  const char* what = "";
  TimePoint until = kNever;  // asleep
  Function<void()> body;
  std::vector<DelayedStore> stores;
  Context context;
};

class Scheduler {
 public:
  Outcome run(const Plan& plan, Function<void()> body) {
    plan_ = plan;
    random_ = plan.seed * 0x9E3779B97F4A7C15u + 1;
    outcome_ = {};
    now_ = TimePoint(std::chrono::seconds(1));
    started_ = alive_ = 0;
    lowest_ = 0;
    const std::uint64_t kind = random(4);
    walks_ = kind == 0;
    delays_stores_ = random(2) == 0;
    scatter(changes_, kind == 1 ? 2 : 1);
    scatter(jumps_, plan.punctual ? 0 : random(4));
    scatter(surprises_, random(3));
    running_ = true;
    begin(std::move(body));
    switch_to(0);
    running_ = false;
    self_ = -1;
    if (!outcome_.problem.empty()) {
      for (auto& fiber : fibers_) static_cast<void>(fiber.release());
      fibers_.clear();
    }
    return outcome_;
  }
  bool running() const noexcept { return running_; }
  int self() const noexcept { return self_; }
  TimePoint now() const noexcept { return now_; }
  bool delays_stores() const noexcept { return delays_stores_; }
  Fiber& current() noexcept { return *fibers_[static_cast<std::size_t>(self_)]; }
  Fiber& fiber(int id) noexcept { return *fibers_[static_cast<std::size_t>(id)]; }

  /// The id of the new fiber, -1 when the plan refuses it.
  int begin(Function<void()> body) {
    if (started_ > 0 && plan_.refused_thread == static_cast<int>(started_) - 1) {
      plan_.refused_thread = -1;
      return -1;
    }
    if (started_ == fibers_.size()) fibers_.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *fibers_[started_];
    fiber.state = Fiber::runnable;
    fiber.spinning = fiber.looping = fiber.in_vain = false;
    fiber.priority = static_cast<std::int64_t>(random(1u << 20)) + 16;
    fiber.stores.clear();
    fiber.body = std::move(body);
    fiber.context.prepare(&Scheduler::enter);
    ++alive_;
    outcome_.threads = started_ + 1;
    return static_cast<int>(started_++);
  }

  void step() noexcept {
    if (++outcome_.steps > plan_.most_steps) fail("no end, a livelock:" + description());
    if (outcome_.steps == 8 * plan_.steps) walks_ = true;  // strict priorities are not fair
    if (!plan_.punctual && random(16) == 0) now_ += Duration(random(1000));
    if (is_now(jumps_)) now_ = std::max(now_, std::min(next_timer(), now_ + kLongestJump));
    if (is_now(surprises_)) notify(nullptr, false);
    if (!current().looping) ++world_;
    if (is_now(changes_)) current().priority = static_cast<std::int64_t>(random(15)) + 1;
    reschedule();
  }
  void spin() noexcept {
    if (++outcome_.steps > plan_.most_steps) fail("no end, a livelock:" + description());
    Fiber& self = current();
    self.in_vain = self.looping && self.seen == world_;
    drain(self);
    self.priority = --lowest_;
    self.spinning = self.looping = true;
    reschedule();
    self.spinning = false;
    self.seen = world_;
  }
  void block(Fiber::State state, bool (*ready)(const void*), const void* on, const char* what,
             TimePoint until) noexcept {
    Fiber& self = current();
    drain(self);
    self.state = state;
    self.ready = ready;
    self.on = on;
    self.what = what;
    self.until = until;
    reschedule();
    self.state = Fiber::runnable;
  }
  /// Of the sleepers on `condition` (null: on any) all, or one that chance chooses.
  void notify(const void* condition, bool all) noexcept {
    std::size_t sleepers = 0;
    Fiber* chosen = nullptr;
    for (std::size_t i = 0; i < started_; ++i) {
      Fiber& f = *fibers_[i];
      if (f.state != Fiber::asleep || (condition != nullptr && f.on != condition)) continue;
      if (all) f.state = Fiber::runnable;
      if (random(++sleepers) == 0) chosen = &f;
    }
    if (chosen != nullptr) chosen->state = Fiber::runnable;
  }
  bool has_sleepers(const void* condition) const noexcept {
    return std::any_of(
        fibers_.begin(), fibers_.begin() + static_cast<std::ptrdiff_t>(started_),
        [&](const auto& f) { return f->state == Fiber::asleep && f->on == condition; });
  }
  static void drain(Fiber& fiber) noexcept {
    for (const DelayedStore& store : fiber.stores) store.commit(store.target, store.value);
    fiber.stores.clear();
    fiber.looping = false;
  }
  void forget_stores(const void* target) noexcept {
    for (std::size_t i = 0; i < started_; ++i) {
      std::erase_if(fibers_[i]->stores, [&](const auto& s) { return s.target == target; });
    }
  }
  [[noreturn]] void fail(std::string problem) noexcept {
    outcome_.problem = std::move(problem);
    leave();
  }

 private:
  static constexpr Duration kLongestJump = std::chrono::seconds(1);

  static void enter();
  [[noreturn]] void leave() noexcept {
    Context& here = current().context;
    here.switch_to(host_);
    std::abort();
  }
  std::uint64_t random(std::uint64_t below) noexcept {  // splitmix64
    std::uint64_t z = (random_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return below == 0 ? 0 : (z ^ (z >> 31)) % below;
  }
  void scatter(std::vector<std::size_t>& steps, std::size_t n) {
    steps.clear();
    for (std::size_t i = 0; i < n; ++i) steps.push_back(1 + random(plan_.steps));
  }
  bool is_now(const std::vector<std::size_t>& steps) const noexcept {
    return std::find(steps.begin(), steps.end(), outcome_.steps) != steps.end();
  }
  TimePoint next_timer() const noexcept {
    TimePoint next = kNever;
    for (std::size_t i = 0; i < started_; ++i) {
      const Fiber& f = *fibers_[i];
      if (f.state == Fiber::asleep) next = std::min(next, f.until);
    }
    return next;
  }
  bool can_run(const Fiber& f) const noexcept {
    switch (f.state) {
      case Fiber::runnable:
        return true;
      case Fiber::blocked:
        return f.ready(f.on);
      case Fiber::asleep:
        return f.until <= now_;
      default:
        return false;
    }
  }
  /// The fiber to go on with; -1 when there is none.
  int choose() noexcept {
    for (;;) {
      int best = -1, patient = -1;  // of all; of those who spin, who may see news
      std::uint64_t runnable = 0, spinning = 0;
      const auto before = [&](int a, int b) {
        return b < 0 || fiber(a).priority > fiber(b).priority;
      };
      for (int i = 0; i < static_cast<int>(started_); ++i) {
        if (!can_run(fiber(i))) continue;
        ++runnable;
        if (walks_ ? random(runnable) == 0 : before(i, best)) best = i;
        if (!fiber(i).spinning) continue;
        ++spinning;
        if (fiber(i).in_vain && fiber(i).seen == world_) continue;
        if (before(i, patient)) patient = i;
      }
      if (runnable > spinning) return best;
      const TimePoint timer = next_timer();
      if (runnable > 0) {  // once each of them has looked in vain, time passes
        if (patient >= 0) return patient;
        ++world_;
        now_ = std::min(timer, now_ + std::chrono::microseconds(1));
        continue;
      }
      if (timer == kNever) return -1;
      now_ = std::max(now_, timer);
    }
  }
  void reschedule() noexcept {
    const int next = choose();
    if (next < 0) {
      if (alive_ == 0) leave();
      fail("deadlock:" + description());
    }
    if (next != self_) switch_to(next);
  }
  void switch_to(int next) noexcept {
    Context& from = self_ < 0 ? host_ : current().context;
    self_ = next;
    from.switch_to(current().context);
  }
  std::string description() const {
    std::string text;
    for (std::size_t i = 0; i < started_; ++i) {
      const Fiber& f = *fibers_[i];
      if (f.state == Fiber::ended) continue;
      text += " thread " + std::to_string(i) + ' ' +
              (f.state == Fiber::runnable ? "runs" : f.what) + ';';
    }
    return text;
  }

  Plan plan_;
  Outcome outcome_;
  Context host_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::size_t started_ = 0, alive_ = 0;
  std::vector<std::size_t> changes_, jumps_, surprises_;
  std::uint64_t random_ = 0;
  std::int64_t lowest_ = 0;
  std::uint64_t world_ = 0;  // grows with whatever somebody who spins may look for
  TimePoint now_{};
  int self_ = -1;
  bool running_ = false, walks_ = false, delays_stores_ = false;
};

Scheduler scheduler;

void Scheduler::enter() {
  scheduler.current().context.arrived();
  scheduler.current().body();
  scheduler.current().body = nullptr;
  Fiber& self = scheduler.current();
  drain(self);
  self.state = Fiber::ended;
  ++scheduler.world_;
  --scheduler.alive_;
  scheduler.reschedule();
  std::abort();  // nobody goes on with what has ended
}

}  // namespace

Outcome run(const Plan& plan, Function<void()> body) {
  return scheduler.run(plan, std::move(body));
}
void fail(std::string problem) noexcept { scheduler.fail(std::move(problem)); }
TimePoint now() noexcept { return scheduler.now(); }
void step() noexcept {
  if (scheduler.running()) scheduler.step();
}
void spin() noexcept {
  if (scheduler.running()) scheduler.spin();
}
void drain() noexcept {
  if (scheduler.running()) Scheduler::drain(scheduler.current());
}
int self() noexcept { return scheduler.running() ? scheduler.self() : -2; }
bool may_delay_stores() noexcept { return scheduler.running() && scheduler.delays_stores(); }
void delay_store(const DelayedStore& store) noexcept {
  scheduler.current().stores.push_back(store);
}
const DelayedStore* own_delayed_store(const void* target) noexcept {
  if (!scheduler.running()) return nullptr;
  const std::vector<DelayedStore>& stores = scheduler.current().stores;
  const auto own = std::find_if(stores.rbegin(), stores.rend(),
                                [&](const DelayedStore& s) { return s.target == target; });
  return own == stores.rend() ? nullptr : &*own;
}
void forget_stores(const void* target) noexcept {
  if (may_delay_stores()) scheduler.forget_stores(target);
}
void block(bool (*ready)(const void*), const void* on, const char* what) noexcept {
  scheduler.block(Fiber::blocked, ready, on, what, kNever);
}
void sleep(const void* condition, TimePoint until) noexcept {
  scheduler.block(Fiber::asleep, nullptr, condition, "sleeps", until);
}
void notify(const void* condition, bool all) noexcept {
  if (scheduler.running()) scheduler.notify(condition, all);
}
bool has_sleepers(const void* condition) noexcept {
  return scheduler.running() && scheduler.has_sleepers(condition);
}
int start(Function<void()>&& body) noexcept {
  step();
  drain();
  return scheduler.begin(std::move(body));
}
bool has_ended(int thread) noexcept { return scheduler.fiber(thread).state == Fiber::ended; }

}  // namespace ciuic::inline CIUIC_ABI::simulated
