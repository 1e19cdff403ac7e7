#include "ciuic/quant/calibrate.hpp"

#include <cmath>
#include <map>
#include <optional>

#include "base/try.hpp"
#include "ciuic/base/guarded.hpp"
#include "ciuic/base/sync.hpp"

namespace ciuic::inline CIUIC_ABI {
namespace {

/// Everything seen so far. Thread-safety: thread-safe.
class Record {
 public:
  /// `x` [rows, cols] of `matrix`.
  void add(const PackedMatrix& matrix, std::span<const float> x) {
    const auto cols = static_cast<std::size_t>(matrix.cols());
    const Lock lock(mutex_);
    const auto [found, is_new] = index_.emplace(&matrix, statistics_.size());
    if (is_new) statistics_.emplace_back(cols);
    for (std::size_t first = 0; first + cols <= x.size(); first += cols)
      statistics_[found->second].add_row(x.subspan(first, cols));
  }
  std::vector<InputStatistics> take() {
    const Lock lock(mutex_);
    return std::move(statistics_);
  }

 private:
  Mutex mutex_;
  std::map<const PackedMatrix*, std::size_t> index_ CIUIC_GUARDED_BY(mutex_);
  std::vector<InputStatistics> statistics_ CIUIC_GUARDED_BY(mutex_);
};

/// As Queue::rms_norm does it.
void normalize(std::span<float> row, std::span<const float> weight, float epsilon) noexcept {
  double squares = 0.0;
  for (const float value : row) squares += double{value} * double{value};
  const double factor =
      1.0 / std::sqrt(squares / static_cast<double>(row.size()) + double{epsilon});
  for (std::size_t j = 0; j < row.size(); ++j)
    row[j] = static_cast<float>(row[j] * factor * weight[j]);
}

class ObservedQueue final : public Queue {
 public:
  ObservedQueue(std::unique_ptr<Queue> inner, Record& record)
      : inner_(std::move(inner)), record_(record) {}

  void copy_to_device(void* device, std::span<const std::byte> host) noexcept override {
    if (!error_) inner_->copy_to_device(device, host);
  }
  void copy_to_host(std::span<std::byte> host, const void* device) noexcept override {
    if (!error_) inner_->copy_to_host(host, device);
  }
  Result<std::unique_ptr<Event>> record() noexcept override { return inner_->record(); }
  void wait(Event& event) noexcept override { inner_->wait(event); }
  Result<void> synchronize() noexcept override {
    Result<void> result = inner_->synchronize();
    if (error_) {
      result = *std::move(error_);
      error_.reset();
    }
    return result;
  }
  Result<void> reserve_matmul(const PackedMatrix& weight, std::int64_t tokens,
                              bool norm) noexcept override {
    return inner_->reserve_matmul(weight, tokens, norm);
  }
  std::size_t bytes() const noexcept override { return inner_->bytes(); }
  void embed(const PackedMatrix& table, ConstTensorView ids, TensorView out) noexcept override {
    if (!error_) inner_->embed(table, ids, out);
  }
  void rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                TensorView out) noexcept override {
    if (!error_) inner_->rms_norm(x, weight, epsilon, out);
  }
  void matmul(ConstTensorView x, const PackedMatrix& weight, TensorView out,
              const MatmulOptions& options) noexcept override {
    if (error_) return;
    Result<void> seen;
    const Result<void> called =
        call_guarded(ErrorCode::internal, "calibrate", [&] { seen = look(x, weight, options); });
    if (!called || !seen) {
      error_.emplace(called ? std::move(seen).error() : called.error());
      return;
    }
    inner_->matmul(x, weight, out, options);
  }
  void rope_table(ConstTensorView positions, ConstTensorView frequencies, float factor,
                  TensorView table) noexcept override {
    if (!error_) inner_->rope_table(positions, frequencies, factor, table);
  }
  void rotate_and_store(TensorView qkv, ConstTensorView table, const PackedBatch& batch,
                        const AttentionShape& shape, KvCache& cache,
                        std::int32_t layer) noexcept override {
    if (!error_) inner_->rotate_and_store(qkv, table, batch, shape, cache, layer);
  }
  void attention(ConstTensorView qkv, const PackedBatch& batch, const AttentionShape& shape,
                 const KvCache& cache, std::int32_t layer, TensorView out) noexcept override {
    if (!error_) inner_->attention(qkv, batch, shape, cache, layer, out);
  }
  void gather_rows(ConstTensorView x, ConstTensorView indices, TensorView out) noexcept override {
    if (!error_) inner_->gather_rows(x, indices, out);
  }

 private:
  Result<void> look(ConstTensorView x, const PackedMatrix& weight, const MatmulOptions& options) {
    const auto cols = static_cast<std::size_t>(weight.cols());
    const auto elements = x.shape.elements();
    // What is wrong with an argument is for the inner queue to say.
    if (x.data == nullptr || x.shape.rank() != 2 || !elements || x.shape[1] != weight.cols()) {
      return {};
    }
    values_.resize(static_cast<std::size_t>(*elements));
    inner_->copy_to_host(std::as_writable_bytes(std::span(values_)), x.data);
    const bool has_norm = options.norm.data != nullptr;
    if (has_norm) {
      norm_.resize(cols);
      inner_->copy_to_host(std::as_writable_bytes(std::span(norm_)), options.norm.data);
    }
    CIUIC_TRY(inner_->synchronize());
    if (has_norm) {
      for (std::size_t first = 0; first < values_.size(); first += cols)
        normalize(std::span(values_).subspan(first, cols), norm_, options.norm_epsilon);
    }
    record_.add(weight, values_);
    return {};
  }

  std::unique_ptr<Queue> inner_;
  Record& record_;
  std::optional<Error> error_;
  std::vector<float> values_, norm_;
};

class ObservedBackend final : public Backend {
 public:
  ObservedBackend(std::shared_ptr<const Backend> inner, Record& record)
      : inner_(std::move(inner)), record_(record) {}

  std::string_view name() const noexcept override { return inner_->name(); }
  std::string_view isa() const noexcept override { return inner_->isa(); }
  Result<void*> allocate(std::size_t bytes) const noexcept override {
    return inner_->allocate(bytes);
  }
  void deallocate(void* memory, std::size_t bytes) const noexcept override {
    inner_->deallocate(memory, bytes);
  }
  Result<std::unique_ptr<PackedMatrix>> pack(MatrixSource source,
                                             MatrixFormat format) const noexcept override {
    return inner_->pack(std::move(source), format);
  }
  Result<std::unique_ptr<PackedMatrix>> load_packed(PackedSource source) const noexcept override {
    return inner_->load_packed(std::move(source));
  }
  Result<void> store_packed(const PackedMatrix& matrix,
                            std::span<std::byte> out) const noexcept override {
    return inner_->store_packed(matrix, out);
  }
  std::size_t kv_page_bytes(const KvCacheShape& shape) const noexcept override {
    return inner_->kv_page_bytes(shape);
  }
  Result<std::unique_ptr<KvCache>> make_kv_cache(
      const KvCacheShape& shape) const noexcept override {
    return inner_->make_kv_cache(shape);
  }
  Result<std::unique_ptr<Queue>> make_queue(const QueueOptions& options) const noexcept override {
    CIUIC_ASSIGN_OR_RETURN(std::unique_ptr<Queue> queue, inner_->make_queue(options));
    std::unique_ptr<Queue> observed(new (std::nothrow) ObservedQueue(std::move(queue), record_));
    if (observed == nullptr) return Error(ErrorCode::out_of_memory, "make_queue: no memory");
    return observed;
  }

 private:
  std::shared_ptr<const Backend> inner_;
  Record& record_;
};

}  // namespace

Result<std::vector<InputStatistics>> calibrate(
    std::shared_ptr<const Backend> inner,
    Function<Result<void>(std::shared_ptr<const Backend>)> run) {
  Record record;
  const auto observed = std::make_shared<const ObservedBackend>(std::move(inner), record);
  Result<void> done;
  CIUIC_TRY(call_guarded(ErrorCode::model_failed, "calibrate: run", [&] { done = run(observed); }));
  if (!done) return std::move(done).error();
  return record.take();
}

}  // namespace ciuic::inline CIUIC_ABI
