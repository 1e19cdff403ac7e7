#include "support/fake_backend.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <new>

#include "ciuic/base/sync.hpp"

namespace ciuic::testing {
namespace {

/// Memory that only the device can open. Thread-safety: thread-safe.
class FakeMemory final : public std::pmr::memory_resource {
 public:
  void open() { set_open(true); }
  void close() { set_open(false); }

 private:
  struct Region {
    void* base;
    std::size_t usable, mapped;
  };

  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    if (alignment > page) throw std::bad_alloc();
    const std::size_t padded = (bytes + alignment - 1) / alignment * alignment;
    const std::size_t usable = (padded + page - 1) / page * page;
    void* base =
        mmap(nullptr, usable + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    mprotect(base, usable, PROT_READ | PROT_WRITE);
    std::memset(base, 0xFF, usable);
    std::byte* data = static_cast<std::byte*>(base) + (usable - padded);
    const Lock lock(mutex_);
    if (!open_) mprotect(base, usable, PROT_NONE);
    regions_.emplace(data, Region{base, usable, usable + page});
    return data;
  }
  void do_deallocate(void* memory, std::size_t, std::size_t) override {
    const Lock lock(mutex_);
    const auto found = regions_.find(memory);
    munmap(found->second.base, found->second.mapped);
    regions_.erase(found);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }
  void set_open(bool open) {
    const Lock lock(mutex_);
    open_ = open;
    for (const auto& [data, region] : regions_)
      mprotect(region.base, region.usable, open ? PROT_READ | PROT_WRITE : PROT_NONE);
  }

  Mutex mutex_;
  std::map<void*, Region> regions_ CIUIC_GUARDED_BY(mutex_);
  bool open_ CIUIC_GUARDED_BY(mutex_) = false;
};

/// Memory and the one thread that may use it.
class Device {
 public:
  explicit Device(CpuIsa isa) {
    CpuBackendOptions options;
    options.isa = isa;
    options.host.memory = &memory_;
    inner_ = cpu_backend(options).value();
    thread_ = Thread::start([this] { run(); }).value();
  }
  ~Device() {
    {
      const Lock lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  const Backend& inner() const { return *inner_; }
  FakeMemory& memory() { return memory_; }

  /// Runs `task` on the device, with its memory open, and waits until it is done and closed again.
  void execute(Function<void()> task) {
    Lock lock(mutex_);
    while (busy_) changed_.wait(lock);
    busy_ = true;
    task_ = std::move(task);
    const std::uint64_t ticket = ++started_;
    changed_.notify_all();
    while (finished_ < ticket) changed_.wait(lock);
  }

 private:
  void run() {
    Lock lock(mutex_);
    for (;;) {
      while (!task_ && !stopping_) changed_.wait(lock);
      if (!task_) return;
      Function<void()> task = std::move(task_);
      lock.unlock();
      memory_.open();
      task();
      memory_.close();
      lock.lock();
      busy_ = false;
      ++finished_;
      changed_.notify_all();
    }
  }

  FakeMemory memory_;
  std::shared_ptr<const Backend> inner_;
  Mutex mutex_;
  CondVar changed_;
  bool busy_ CIUIC_GUARDED_BY(mutex_) = false, stopping_ CIUIC_GUARDED_BY(mutex_) = false;
  Function<void()> task_ CIUIC_GUARDED_BY(mutex_);
  std::uint64_t started_ CIUIC_GUARDED_BY(mutex_) = 0, finished_ CIUIC_GUARDED_BY(mutex_) = 0;
  Thread thread_;
};

/// What a queue and its events share.
struct QueueState {
  Device& device;
  std::unique_ptr<Queue> inner;
  Mutex mutex;
  std::deque<Function<void(Queue&)>> waiting CIUIC_GUARDED_BY(mutex);
  std::uint64_t recorded CIUIC_GUARDED_BY(mutex) = 0, executed CIUIC_GUARDED_BY(mutex) = 0;

  QueueState(Device& owner, std::unique_ptr<Queue> queue)
      : device(owner), inner(std::move(queue)) {}
  /// On the device: executes what was recorded before `until`.
  void execute_until(std::uint64_t until) {
    for (;;) {
      Function<void(Queue&)> operation;
      {
        const Lock lock(mutex);
        if (executed >= until || waiting.empty()) return;
        operation = std::move(waiting.front());
        waiting.pop_front();
        ++executed;
      }
      operation(*inner);
    }
  }
  bool has_executed(std::uint64_t until) {
    const Lock lock(mutex);
    return executed >= until;
  }
};

class FakeEvent final : public Event {
 public:
  FakeEvent(std::shared_ptr<QueueState> state, std::uint64_t until)
      : state_(std::move(state)), until_(until) {}
  bool is_done() const noexcept override {
    constexpr int kLazyPolls = 3;
    if (!state_->has_executed(until_) && polls_.fetch_add(1) + 1 >= kLazyPolls) complete();
    return state_->has_executed(until_);
  }
  void wait() noexcept override { complete(); }
  const std::shared_ptr<QueueState>& state() const { return state_; }
  std::uint64_t until() const { return until_; }

 private:
  void complete() const {
    state_->device.execute([this] { state_->execute_until(until_); });
  }
  std::shared_ptr<QueueState> state_;
  std::uint64_t until_;
  mutable Atomic<int> polls_{0};
};

class FakeQueue final : public Queue {
 public:
  explicit FakeQueue(std::shared_ptr<QueueState> state) : state_(std::move(state)) {}

  void copy_to_device(void* device, std::span<const std::byte> host) noexcept override {
    add([=](Queue& q) { q.copy_to_device(device, host); });
  }
  void copy_to_host(std::span<std::byte> host, const void* device) noexcept override {
    add([=](Queue& q) { q.copy_to_host(host, device); });
  }
  Result<std::unique_ptr<Event>> record() noexcept override {
    const Lock lock(state_->mutex);
    return std::unique_ptr<Event>(new FakeEvent(state_, state_->recorded));
  }
  void wait(Event& event) noexcept override {
    if (auto* fake = dynamic_cast<FakeEvent*>(&event)) {
      if (fake->state() == state_) return;  // in order already
      add([other = fake->state(), until = fake->until()](Queue&) { other->execute_until(until); });
    } else {
      event.wait();
    }
  }
  Result<void> synchronize() noexcept override {
    Result<void> result;
    state_->device.execute([this, &result] {
      state_->execute_until(~std::uint64_t{0});
      result = state_->inner->synchronize();
    });
    return result;
  }
  Result<void> reserve_matmul(const PackedMatrix& weight, std::int64_t tokens,
                              bool norm) noexcept override {
    Result<void> result;
    state_->device.execute([&] { result = state_->inner->reserve_matmul(weight, tokens, norm); });
    return result;
  }

  void embed(const PackedMatrix& table, ConstTensorView ids, TensorView out) noexcept override {
    add([=, &table](Queue& q) { q.embed(table, ids, out); });
  }
  void rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                TensorView out) noexcept override {
    add([=](Queue& q) { q.rms_norm(x, weight, epsilon, out); });
  }
  void matmul(ConstTensorView x, const PackedMatrix& weight, TensorView out,
              const MatmulOptions& options) noexcept override {
    add([=, &weight, copy = options](Queue& q) { q.matmul(x, weight, out, copy); });
  }
  void rope_table(ConstTensorView positions, ConstTensorView frequencies, float factor,
                  TensorView table) noexcept override {
    add([=](Queue& q) { q.rope_table(positions, frequencies, factor, table); });
  }
  void rotate_and_store(TensorView qkv, ConstTensorView table, const PackedBatch& batch,
                        const AttentionShape& shape, KvCache& cache,
                        std::int32_t layer) noexcept override {
    add([=, &cache, rows = batch, form = shape](Queue& q) {
      q.rotate_and_store(qkv, table, rows, form, cache, layer);
    });
  }
  void attention(ConstTensorView qkv, const PackedBatch& batch, const AttentionShape& shape,
                 const KvCache& cache, std::int32_t layer, TensorView out) noexcept override {
    add([=, &cache, rows = batch, form = shape](Queue& q) {
      q.attention(qkv, rows, form, cache, layer, out);
    });
  }
  void gather_rows(ConstTensorView x, ConstTensorView indices, TensorView out) noexcept override {
    add([=](Queue& q) { q.gather_rows(x, indices, out); });
  }

 private:
  void add(Function<void(Queue&)> operation) {
    const Lock lock(state_->mutex);
    state_->waiting.push_back(std::move(operation));
    ++state_->recorded;
  }
  std::shared_ptr<QueueState> state_;
};

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(CpuIsa isa) : device_(isa) {}
  std::string_view name() const noexcept override { return "fake"; }
  std::string_view isa() const noexcept override { return device_.inner().isa(); }

  Result<void*> allocate(std::size_t bytes) const noexcept override {
    return device_.inner().allocate(bytes);
  }
  void deallocate(void* memory, std::size_t bytes) const noexcept override {
    device_.inner().deallocate(memory, bytes);
  }
  Result<std::unique_ptr<PackedMatrix>> pack(MatrixSource source,
                                             MatrixFormat format) const noexcept override {
    Result<std::unique_ptr<PackedMatrix>> result = Error(ErrorCode::internal);
    device_.execute([&] { result = device_.inner().pack(std::move(source), format); });
    return result;
  }
  Result<std::unique_ptr<PackedMatrix>> load_packed(PackedSource source) const noexcept override {
    if (source.mapped.data() != nullptr) {  // the host's memory is not the device's: copy
      source.read = [bytes = source.mapped](std::size_t offset,
                                            std::span<std::byte> out) -> Result<void> {
        if (offset > bytes.size() || bytes.size() - offset < out.size()) {
          return Error(ErrorCode::invalid_argument, "load_packed: source.mapped: too few bytes");
        }
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
        return {};
      };
      source.mapped = {};
    }
    Result<std::unique_ptr<PackedMatrix>> result = Error(ErrorCode::internal);
    device_.execute([&] { result = device_.inner().load_packed(std::move(source)); });
    return result;
  }
  Result<void> store_packed(const PackedMatrix& matrix,
                            std::span<std::byte> out) const noexcept override {
    Result<void> result;
    device_.execute([&] { result = device_.inner().store_packed(matrix, out); });
    return result;
  }
  std::size_t kv_page_bytes(const KvCacheShape& shape) const noexcept override {
    return device_.inner().kv_page_bytes(shape);
  }
  Result<std::unique_ptr<KvCache>> make_kv_cache(
      const KvCacheShape& shape) const noexcept override {
    return device_.inner().make_kv_cache(shape);
  }
  Result<std::unique_ptr<Queue>> make_queue(const QueueOptions& options) const noexcept override {
    auto inner = device_.inner().make_queue(options);
    if (!inner) return std::move(inner).error();
    return std::unique_ptr<Queue>(
        new FakeQueue(std::make_shared<QueueState>(device_, *std::move(inner))));
  }

 private:
  mutable Device device_;
};

}  // namespace

std::shared_ptr<const Backend> fake_backend(CpuIsa isa) {
  return std::make_shared<FakeBackend>(isa);
}

}  // namespace ciuic::testing
