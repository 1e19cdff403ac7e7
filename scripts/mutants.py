#!/usr/bin/env python3
"""Plants one bug at a time in the batcher and checks that the tests notice.

  scripts/mutants.py                 all of them; exit 1 when one survives or does not apply any more
  scripts/mutants.py inbox core      those whose file or reason contains one of the words
  scripts/mutants.py --quick         only the first of each one's tests
  scripts/mutants.py --list

A mutant is a file under include/ciuic, a text in it, the text to put there instead, and why that is
a bug. Each is built in a scratch copy with the tests that kill fastest, and counts as killed when a
test does not compile, fails, crashes or does not end in time. CXX, CIUIC_JOBS and CIUIC_SECONDS (how
long a test may take: more on a busy machine) are heeded.
"""
import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CXX = os.environ.get("CXX", "g++")
FLAGS = "-std=c++20 -O1 -Iinclude -Isrc -Itests -Itests/support -DCIUIC_SOURCE_DIR=\"/nowhere\"".split()
SEEDS = "12000"  # per world of schedule_test
SECONDS = int(os.environ.get("CIUIC_SECONDS", "240"))  # a test that runs longer hangs

# program: its sources, and flags of its own
TESTS = {
    "schedule": (["tests/batching/schedule_test.cpp", "tests/support/ciuic_sync_simulated.cpp"],
                 ["-DCIUIC_SYNC_SIMULATED"]),
    "core": (["tests/batching/batch_core_test.cpp", "tests/batching/batch_core_random_test.cpp"], []),
    "inbox": (["tests/batching/inbox_test.cpp"], []),
    "batcher": (["tests/batching/dynamic_batcher_test.cpp", "tests/batching/host_driven_test.cpp",
                 "tests/batching/executor_test.cpp"], []),
    "overload": (["tests/batching/overload_test.cpp"], []),
    "ledger": (["tests/batching/ledger_test.cpp"], []),
}
SHELL = ["schedule", "batcher", "overload", "ledger"]
CORE = ["core", "schedule", "batcher"]

MUTANTS = []


def file(name, tests):
    def add(old, new, why):
        MUTANTS.append((f"include/ciuic/batching/{name}.hpp", old, new, why, tests))
    return add


m = file("inbox", ["inbox", "schedule"])
m("if ((head & kClosed) != 0) return Pushed::closed;", "", "a closed inbox takes more")
m("if (waiting >= capacity_)", "if (waiting > capacity_)", "one above the capacity")
m("count >= bell_count_", "count > bell_count_", "the bell rings one push too late")
m("deadline.time_since_epoch().count() < bell_time_.load(std::memory_order_relaxed) ||", "",
  "an earlier deadline does not ring")
m("cost >= static_cast<std::int64_t>(bell_cost_", "cost > static_cast<std::int64_t>(bell_cost_", "the cost rings too late")
m("if (cost != 1) pushed_extra_.fetch_add(cost - 1);", "", "pushed costs are not counted")
m("static_cast<std::int64_t>(count + extra);", "static_cast<std::int64_t>(extra);", "costs of one are not counted")
m("pushed_extra_.load() - bell_extra_.load(std::memory_order_relaxed);", "pushed_extra_.load();",
  "the cost of earlier pushes rings again")
m("return empty();\n  }\n  /// Owner: somebody", "return true;\n  }\n  /// Owner: somebody",
  "the sleeper does not look again after arming")
m("armed_.store(true);", "armed_.store(true, std::memory_order_release);",
  "arming and looking are not in one order")
m("bell_from_.store(static_cast<std::uint32_t>(drained()), std::memory_order_relaxed);",
  "bell_from_.store(static_cast<std::uint32_t>(drained()) + 1, std::memory_order_relaxed);",
  "the bell waits for one too many")
m("newest = static_cast<std::uint32_t>(head) & kTicket, oldest = kTicket;",
  "newest = kTicket, oldest = static_cast<std::uint32_t>(head) & kTicket;", "last come, first served")
m("drained_.store(drained);", "", "drained tickets are not counted")
m("left_.store(static_cast<std::uint32_t>(drained() - waiting), std::memory_order_relaxed);", "",
  "places never become free")
m("drained_extra_ += cost - 1;", "", "drained costs are not counted")
m("void close() noexcept { head_.fetch_or(kClosed); }", "void close() noexcept {}", "close() does nothing")

m = file("worker_team", SHELL)
m("    leader_.notify_all();\n", "", "the leader sleeps through the end")
m("    timer_.notify_all();\n", "", "the timer sleeps through the end")
m("if (next.when < leader_event_) {", "if (false) {", "the leader is not told of something earlier")
m("std::exchange(follower_called_, true) ? nullptr : &followers_", "nullptr", "a follower is never called")
m("|| next.when != kNever) {", ") {", "a follower is not called for a close time")
m("if (core.next_deadline() < timer_until_) {", "if (false) {", "the timer is not told of an earlier deadline")
m("inbox.arm(Inbox::kNoCount, Inbox::kNoCost, timer_until_)", "inbox.arm(Inbox::kNoCount, Inbox::kNoCost, TimePoint::min())",
  "a deadline does not ring for the timer")
m("if (CondVar* sleeper = settle()) sleeper->notify_one();", "settle();",
  "whoever takes a batch wakes nobody for the rest")
m("    if (sleeper != nullptr) sleeper->notify_one();\n    return true;", "    return true;",
  "the bell wakes nobody")
m("      follower_called_ = false;\n", "", "a follower is called only once")
m("      leader_asleep_ = true;\n", "", "a sleeping leader counts as awake")
m("if (shell_.inbox().empty() &&\n          shell_.inbox().arm(", "if (shell_.inbox().empty() ||\n          shell_.inbox().arm(",
  "the leader sleeps without arming")
m("      has_leader_ = false;\n", "", "the lead is never handed over")
m("      timer_until_ = shell_.core().next_deadline();\n      CondVar*", "      CondVar*", "the timer forgets its time")
m("static_cast<std::uint32_t>(inbox.drained());  // by", "inbox.pushed();  // by",
  "the final spin misses what came before it")

m = file("batch_shell", SHELL)
m("    end(activity);\n    settled_.notify_all();\n    if", "    end(activity);\n    if",
  "drain and stop are not told of the end of a batch")
m("if (driver_ != nullptr) driver_->taken(lock);\n    execute", "execute", "the lead is not handed over")
m("&& activity->next == nullptr) retire(lock);", ") retire(lock);", "the model goes while others run it")
m("    inbox_.close();\n    absorb();\n    core_.drain();", "    absorb();\n    core_.drain();",
  "requests enter while it drains")
m("    core_.drain();\n    room_.notify_all();", "    core_.drain();", "whoever blocks sleeps through drain()")
m("    core_.drain();\n", "", "drain() does not hurry")
m("    while (active_ != nullptr) settled_.wait(lock);\n    if (first)", "    if (first)",
  "stop() does not wait for running batches")
m("    while (!stopped_) settled_.wait(lock);\n", "", "the second stop() does not wait")
m("      stopped_ = true;\n      settled_.notify_all();", "      stopped_ = true;", "the second stop() is not told")
m("    core_.stop();\n", "", "stop() abandons nothing")
m("    inbox_.close();\n    absorb();\n    core_.stop();", "    absorb();\n    core_.stop();",
  "requests enter after stop()")
m("    core_.stop();\n    room_.notify_all();", "    core_.stop();", "whoever blocks sleeps through stop()")
m("if (is_active_thread()) return deadlock(\"stop\");", "", "stop() from a callback waits for itself")
m("*link = activity->next;\n", "", "an ended batch stays active")
m("if (action.kind == BatchAction::dispatch) ran = action.slots.size();", "ran = action.slots.size();",
  "run_one() stops at what has expired")

m = file("executor_pump", SHELL)
m("    --pumps_;\n    taken(lock);", "    taken(lock);", "a pump that ended counts for ever")
m("    --pumps_;\n    taken(lock);", "    --pumps_;", "a pump ends without looking who comes next")
m("if (!taken_on && pumps_ == 0 &&", "if (false && pumps_ == 0 &&", "a refused task loses what waits")
m("if (shell_.inbox().drained() == seen && arm(lock)) return true;", "arm(lock);\n      return true;", "nobody looks again after arming")
m("shell_.inbox().drained() == seen && ", "", "what another absorbed while a task was posted is not seen")
m("if (pumps_ >= workers_) return shell_.inbox().arm(Inbox::kNoCount, Inbox::kNoCost, look);",
  "if (pumps_ >= workers_) return shell_.inbox().arm(Inbox::kNoCount, Inbox::kNoCost, TimePoint::min());",
  "a deadline does not ring while every pump runs")
m("    std::erase(ticks_, when);\n    if (pumps_", "    if (pumps_", "a tick that ran still counts")
m("    if (!posted) --pumps_;\n", "", "a refused pump counts as posted")
m("    if (!posted) std::erase(ticks_, when);\n", "", "a refused tick counts as posted")
m("if (pumps_ < workers_) {", "if (pumps_ <= workers_) {", "one pump more than workers")
m("const bool busy = pumps_ >= workers_;", "const bool busy = pumps_ > workers_;", "one pump more than workers, posted")
m("if (!arrange(lock)) shell_.hand_back(lock);", "arrange(lock);", "what no task is taken for is not handed back")

m = file("completion_pool", SHELL)
m("while ((flags & (kParked | kContinuation)) == 0) {", "while ((flags & kContinuation) == 0) {",
  "a sleeper is not seen by publish_quietly()")
m("fetch_or(kReady, std::memory_order_acq_rel) & (kParked | kContinuation))", "fetch_or(kReady, std::memory_order_acq_rel) & kContinuation)",
  "a sleeper is not woken by publish()")
m("    { Lock asleep(slot.mutex); }  // whoever set `parked` sleeps by now\n", "",
  "woken between looking and sleeping")
m("    hold(index);\n    run_continuation(index);\n    let_go(index);\n", "", "an answer before its callback is lost")
m("(flags | kClaimed) + kHolder,", "(flags | kClaimed),", "a cancel lets go of what it does not hold")
m("(flags | kReady) - kHolder,", "(flags | kReady),", "a quiet answer keeps its slot for ever")
m("    if (pushed && staying) on_slot_freed();\n", "", "a wanted slot is freed in silence")
m("      keepers_.fetch_add(1, std::memory_order_relaxed);  // to be here for the call\n", "",
  "the pool goes while it is being told of a slot")
m("    if (staying) leave();\n", "", "a pool that told of a slot never goes")
m("static_cast<std::int64_t>(capacity_ - free_.close()));", "static_cast<std::int64_t>(capacity_ - free_.close()) - 1);",
  "a retired pool never goes")
m("retire();\n  }", "delete this;\n  }", "a pool goes with its owner, whoever still has a slot")
m("if (before < 2 * kHolder) recycle(slot);", "if (before <= 2 * kHolder) recycle(slot);", "freed while held")
m("if (!has(index, kReady) && claim(index)) {", "if (!has(index, kReady)) {", "a drop cancels what another answers")
m("& kClaimed) == 0;", "& kClaimed) == 0 || true;", "two may answer")
m("    slot.stop.reset();  // first: waits for a cancel that is on its way on another thread\n", "",
  "a slot is freed under a cancel")

m = file("free_slots", SHELL)
m("      if ((head & kClosed) != 0) return false;\n", "", "slots go back to a pool that has retired")
m("if ((head & kWanted) != 0 && !std::exchange(told, true)) on_wanted();", "", "nobody hears of a free slot")
m("!std::exchange(told, true)", "(told = true)", "a slot that is wanted is told of at each try")
m("((head & ~kTop) + kPush) | slot", "(head & ~kTop) | slot", "a stale pop succeeds")
m("for (std::size_t i = 0; i < kStacks; ++i) {", "for (std::size_t i = 0; i < 1; ++i) {", "other threads' slots are not found")
m("    for (Stack& stack : stacks_) {\n      wanted", "    for (Stack& stack : stacks_) {\n      if (&stack == &stacks_[0]) wanted",
  "only one stack tells of its slots")

m = file("batcher_state", SHELL)
m("    settled_.notify_all();  // it may have been the last, if the new one comes too late\n", "",
  "drain() is not told of a shed request")
m("    { Lock asleep(mutex_); }\n    room_.notify_all();\n  }\n  /// Takes", "    room_.notify_all();\n  }\n  /// Takes",
  "woken between looking for a slot and sleeping")
m("    if (blocked_++ == 0) Pool::want_slots(true);\n", "    ++blocked_;\n", "nobody knows that somebody waits for a slot")
m("      { Lock asleep(mutex_); }\n", "", "stopped between looking at the token and sleeping")
m("    if (core_.cancel(slot) != SlotState::waiting) return;", "    core_.cancel(slot);",
  "a running request is taken out as if it waited")
m("    finish({&slot, 1}, {&ticket, 1}, lock);\n    settled_.notify_all();", "    finish({&slot, 1}, {&ticket, 1}, lock);",
  "drain() is not told of a cancelled request")
m("if (core_.state(slot) != SlotState::running || !entry.has_expiry.exchange(false)) return;",
  "if (!entry.has_expiry.exchange(false)) return;", "the deadline of one request expires another")
m("      return run(tickets.subspan(half), report, true, runs_again);", "      return;", "the second half is forgotten")
m("      std::swap(tickets[kept], tickets[i]);\n", "      tickets[kept] = tickets[i];\n",
  "tickets are lost when some are skipped")
m("        wake_for(ticket, lock);\n        return Refusal::none;", "        return Refusal::none;",
  "a push that is due wakes nobody")
m("return overload_ == Overload::shed ? enter(ticket) : Refusal::queue_full;", "return Refusal::queue_full;",
  "nobody is shed")
m("      future.cancel_on(options.stop_token);\n", "", "a stop token cancels nothing")
m("    if (entry.terms.deadline != kNever && entry.has_expiry.exchange(false)) Pool::let_go(ticket);\n", "",
  "a deadline keeps its slot for ever")
m("    for (const SlotHandle slot : slots) core_.release(slot);\n", "", "the core's slots are never released")
m("if (why == Refusal::none) wake_for(*ticket, lock);", "", "who had to wait for room wakes nobody")
m("      answer(ticket, expired_, StatsBoard::expired);\n", "", "an expired request gets no answer")
m("if (!is_full(why) || token.stop_requested()) break;", "if (!is_full(why)) break;", "blocks on although stopped")
m("    if (blocked_ > 0) room_.notify_all();\n  }\n\n  // --- what a driver's", "  }\n\n  // --- what a driver's",
  "the end of a batch makes no room")

m = file("adaptive_spin", SHELL)
m("if (!ready()) continue;", "static_cast<void>(ready());", "a spin that gives up says it is ready")

m = file("batch_core", CORE)
m("if (waiting_ >= limits_.queue_capacity) return", "if (waiting_ > limits_.queue_capacity) return", "one above the capacity")
m("if (terms.deadline <= now_) return Refusal::expired;", "if (terms.deadline < now_) return Refusal::expired;",
  "a deadline of now is accepted")
m("if (terms.cost > limits_.max_batch_cost)", "if (terms.cost >= limits_.max_batch_cost)", "the largest cost is refused")
m("if (terms.group >= limits_.max_groups)", "if (terms.group > limits_.max_groups)", "a group beyond the last")
m("tenants.waiting(tenant) < limits_.max_queue_per_tenant", "tenants.waiting(tenant) <= limits_.max_queue_per_tenant",
  "a tenant has one above the bound")
m("if (closing_ == Closing::stop) return abandon();", "", "stop() abandons nothing")
m("running_deadlines_.first_deadline() <= now_;", "running_deadlines_.first_deadline() < now_;",
  "a running request expires a tick late")
m("waiting_deadlines_.first_deadline() <= until;", "waiting_deadlines_.first_deadline() < until;",
  "a waiting request expires a tick late")
m("if (g.waiting >= closure.max_count ||", "if (g.waiting > closure.max_count ||", "a full batch does not close")
m("|| waiting_ >= limits_.queue_capacity) {", ") {", "a full queue does not close a batch")
m("} else if (g.cost >= closure.cap_cost) {", "} else if (g.cost > closure.cap_cost) {", "a full cost does not close a batch")
m("node.cost > most - shape.cost", "node.cost >= most - shape.cost", "a batch stays below its cost")
m("if (cap_.count() < closure.max_count) {", "if (false) {", "what an out-of-memory taught is forgotten")
m("closure.cap_cost = std::min(closure.max_cost, cap_.cost());", "closure.cap_cost = closure.max_cost;",
  "the cap on the cost is forgotten")
m("if (room.max_count < closure.max_count) {", "if (false) {", "more than the caller has room for")
m("if (reserve_grown > free_memory &&", "if (reserve_grown >= free_memory &&", "a batch that just fits is refused")
m("(shape.count > 0 || running_batches_ > 0)", "(shape.count > 0)", "more than the memory beside running batches")
m("    reserved_ -= reserved;\n", "", "memory is never given back")
m("    --running_batches_;\n", "", "a batch runs for ever")
m("    if (node.deadline != kNever) waiting_deadlines_.erase(slot);\n", "", "who has left the queue still expires")
m("    if (nodes_[slot.index].deadline != kNever) running_deadlines_.erase(slot.index);\n", "", "who has completed still expires")
m("    group.cost -= node.cost;\n", "", "a group's cost only grows")
m("    waiting_cost_ -= node.cost;\n", "", "the waiting cost only grows")
m("limits_.priority_ageing) <= now_;", "limits_.priority_ageing) < now_;", "ages a tick late")
m("rest.wake_count = std::min({rest.wake_count, waiting_ + more, full});",
  "rest.wake_count = std::min({rest.wake_count, waiting_ + more + 1, full});", "woken one request too late")
m("rest.wake_count = std::min({rest.wake_count, waiting_ + more, full});",
  "rest.wake_count = std::min(rest.wake_count, waiting_ + more);", "a full queue wakes nobody")
m("rest.when = std::min(rest.when, closure.decision.when);", "", "a close time is forgotten")
m("    ++nodes_[slot.index].generation;\n", "", "a stale handle is valid")
m("closing_ = std::max(closing_, Closing::drain);", "closing_ = Closing::drain;", "drain() undoes stop()")
m("void advance(TimePoint now) noexcept { now_ = std::max(now_, now); }", "void advance(TimePoint now) noexcept { now_ = now; }",
  "time runs backwards")
m("last_arrival_ = std::max(last_arrival_, arrival);", "last_arrival_ = arrival;", "arrivals run backwards")
m("return aged ? queue_.peek_beside(first, group) : queue_.peek(group);", "return queue_.peek(group);",
  "priorities do not age")
m("nodes_[has_aged(first) ? first : queue_.peek()].group", "nodes_[queue_.peek()].group", "groups do not age")
m("      queue_.charge(slot, node.cost);\n", "", "tenants are served for nothing")
m("shape.count == 0 ? Fit(true) : policy_->fits(grown, now_, deadline);", "Fit(true);", "fits() is not asked")
m("reason = known(fit.why_not);", "", "why a batch may not grow is forgotten")
m("if (const std::size_t n = expire_waiting(hopeless, 0); n > 0) {", "if (const std::size_t n = 0; n > 0) {",
  "hopeless requests wait")
m("if (node.deadline != kNever) running_deadlines_.push(slot, node.deadline);", "", "running requests never expire")
m("return memory_of({1, cost, cost}) > memory_free();", "return memory_of({1, cost, cost}) >= memory_free();",
  "outlook() waits for memory that is there")
m("if (running_batches_ == 0) return false;", "", "a request larger than the budget waits for ever")
m("return expected_finish(terms) > terms.deadline ?", "return expected_finish(terms) >= terms.deadline ?",
  "just in time is refused")

m = file("request_queue", CORE)
m("items_[slot] = {next_turn_++, flow};", "items_[slot] = {next_turn_, flow};", "no order of arrival")
m("(waiting == most && came_before(head, found))", "(waiting == most && came_before(found, head))", "the youngest is shed")
m("if (waiting > most ||", "if (waiting < most ||", "the smallest tenant is shed")
m("level <= static_cast<std::size_t>(priority); ++level", "level < kPriorityLevels; ++level", "the more important is shed")
m("flows_[active.back()].place", "flows_[flow.place].place", "a flow's place is lost")
m("for (std::size_t level = kPriorityLevels; level-- > 0;) {\n      if (const", "for (std::size_t level = 0; level < kPriorityLevels; ++level) {\n      if (const",
  "the lowest priority first")
m("if (group != kAnyGroup && flows_[flow].group != group) continue;", "", "groups share a batch")
m("    tenants_.leave(tenant_of(number));\n", "", "a tenant's requests never leave")
m("(!tenants_.precedes(found_tenant, tenant) && came_before(head, found))", "came_before(head, found)", "tenants do not share")

m = file("tenant_table", CORE)
m("if (t.waiting++ == 0 && before(t.served, virtual_time_)) t.served = virtual_time_;", "++t.waiting;",
  "whoever stays away saves up a claim")
m("    if (before(virtual_time_, t.served)) virtual_time_ = t.served;\n", "", "virtual time stands still")
m("    t.served += std::max<std::uint64_t>(cost, 1);  // or who costs nothing would always be next\n", "",
  "service is not counted")
m("if (tenants_[i].waiting == 0 &&", "if (", "a tenant that waits is forgotten")
m("(least == kNone || precedes(i, least))", "(least == kNone || precedes(least, i))", "the wrong tenant is forgotten")
m("if (((at - wish) & mask) >= ((at - hole) & mask)) {", "if (false) {", "displaced tenants are lost")
m("tenants_[buckets_[bucket]].id != id", "false", "two tenants of one bucket are one")
m("used_ < tenants_.size() || idle() != kNone", "used_ <= tenants_.size()", "a tenant too many")

m = file("batch_cap", CORE)
m("std::max<std::size_t>(std::min(shape.count, count_), 1);", "std::max<std::size_t>(shape.count, 1);", "the cap grows by failing")
m("if (shape.count < count_ && shape.cost < cost_) return;", "if (shape.count < count_ || shape.cost < cost_) return;",
  "a cap on the count alone never grows")
m("if (++passed_ < kPassesToGrow) return;", "if (++passed_ <= kPassesToGrow) return;", "grows one batch late")
m("      passed_ = 0;\n      return;", "      return;", "passes before a failure count")
m("cost_ = grown(cost_, limits.max_batch_cost);", "", "the cost's cap never grows")

m = file("deadline_heap", CORE)
m("    rise(place_[last.slot]);\n", "", "an early deadline stays below")
m("    sink(hole);\n", "", "a late deadline stays above")
m("if (child + 1 < heap_.size() &&", "if (false &&", "the later child rises")
m("const std::size_t hole = std::exchange(place_[slot], kAbsent);", "const std::size_t hole = place_[slot];", "erased twice")

m = file("slot_links", CORE)
m("(link.next == kNoSlot ? list.tail : links_[link.next].prev) = link.prev;", "if (link.next != kNoSlot) links_[link.next].prev = link.prev;",
  "a list forgets its new end")
m("(link.prev == kNoSlot ? list.head : links_[link.prev].next) = link.next;", "if (link.prev == kNoSlot) list.head = link.next;",
  "a list keeps what was erased")


def run(command, where, seconds):
    """The exit status; None after `seconds`, if any."""
    environment = dict(os.environ, CIUIC_SEEDS=SEEDS)
    with subprocess.Popen(command, cwd=where, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          process_group=0) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return None


def killer(tree, tests, main):
    """The first test that notices, or None."""
    for name in tests:
        sources, flags = TESTS[name]
        program = f"{name}_program"
        if run([CXX, *FLAGS, *flags, *sources, main, "-pthread", "-o", program], tree, None) != 0:
            return f"{name} (does not compile)"
        status = run([f"./{program}", "--abort"], tree, SECONDS)
        (tree / program).unlink()
        if status != 0:
            return f"{name} ({'hangs' if status is None else 'fails' if status > 0 else 'crashes'})"
    return None


def copy_tree(origin, to):
    for part in ("include", "tests/batching", "tests/support"):
        shutil.copytree(origin / part, to / part)
    (to / "src").mkdir()


def attempt(number, mutant, scratch, main):
    path, old, new, why, tests = mutant
    tree = scratch / str(number)
    tree.mkdir()
    copy_tree(scratch / "whole", tree)
    text = (tree / path).read_text()
    if text.count(old) != 1:
        return number, f"MISSING ({text.count(old)} times in the file)"
    (tree / path).write_text(text.replace(old, new))
    by = killer(tree, tests, main)
    shutil.rmtree(tree)
    return number, "SURVIVED" if by is None else f"killed by {by}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants whose file or reason contains one of these")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--quick", action="store_true", help="only the first of each one's tests")
    arguments = parser.parse_args()
    chosen = [x for x in MUTANTS if not arguments.words or any(w in x[0] or w in x[3] for w in arguments.words)]
    if arguments.quick:
        chosen = [(*x[:4], x[4][:1]) for x in chosen]
    if arguments.list:
        for path, _, _, why, _ in chosen:
            print(f"{pathlib.Path(path).stem:16} {why}")
        print(f"{len(chosen)} mutants")
        return 0
    bad, started = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ciuic-mutants-") as name:
        scratch = pathlib.Path(name)
        catch_main = str(scratch / "catch_main.o")
        subprocess.run([CXX, "-std=c++20", "-O0", "-Itests", "-c", "tests/support/catch_main.cpp", "-o", catch_main],
                       cwd=ROOT, check=True)
        # Without a mutant everything passes: otherwise "killed" would mean nothing.
        tree = scratch / "whole"
        tree.mkdir()
        copy_tree(ROOT, tree)
        if by := killer(tree, sorted({t for x in chosen for t in x[4]}), catch_main):
            print(f"without any mutant: {by}")
            return 1
        jobs = int(os.environ.get("CIUIC_JOBS", os.cpu_count() or 1))
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(attempt, i, x, scratch, catch_main) for i, x in enumerate(chosen)]
            for future in concurrent.futures.as_completed(futures):
                number, outcome = future.result()
                print(f"{pathlib.Path(chosen[number][0]).stem:16} {chosen[number][3]:60} {outcome}", flush=True)
                if not outcome.startswith("killed"):
                    bad.append(number)
    print(f"figure: {len(chosen) - len(bad)} mutants killed")
    print(f"{len(chosen)} mutants, {len(bad)} not killed, {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
