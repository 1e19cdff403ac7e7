// The device boundary. A model runtime says what to compute through these classes and never learns
// where: on the CPU, on a GPU, or on the fake device of the tests whose memory the host cannot
// touch.
//
//   Backend        what a device can do: memory, packed weights, KV caches, queues
//   Queue          work in order: copies and operations, asynchronous to the caller
//   PackedMatrix   one weight matrix in the layout its device streams fastest; opaque
//   KvCache        pages of keys and values; opaque
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "ciuic/base/buffer.hpp"
#include "ciuic/base/error.hpp"
#include "ciuic/base/function.hpp"
#include "ciuic/base/tensor_view.hpp"
#include "ciuic/ops/matrix_format.hpp"

namespace ciuic::inline CIUIC_ABI {

/// A weight matrix W [rows, cols] (row = output feature, as on disk: y = x W^T), packed by a
/// Backend. Immutable.
class PackedMatrix {
 public:
  /// `gated`: rows [0, rows/2) are the gate, the others the value; `matmul` then writes
  /// silu(x gate^T) * (x value^T), which is [tokens, rows/2].
  enum class Form : std::uint8_t { plain, gated };

  virtual ~PackedMatrix() = default;
  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t cols() const noexcept { return cols_; }
  Form form() const noexcept { return form_; }
  MatrixFormat format() const noexcept { return format_; }
  std::size_t bytes() const noexcept { return bytes_; }  ///< device memory held
  /// What one step of a quantized input is worth, when it was calibrated; 0: each row's own.
  float input_scale() const noexcept { return input_scale_; }

 protected:
  PackedMatrix(std::int64_t rows, std::int64_t cols, Form form, MatrixFormat format,
               std::size_t bytes, float input_scale) noexcept
      : rows_(rows),
        cols_(cols),
        bytes_(bytes),
        input_scale_(input_scale),
        format_(format),
        form_(form) {}

 private:
  std::int64_t rows_, cols_;
  std::size_t bytes_;
  float input_scale_;
  MatrixFormat format_;
  Form form_;
};

/// Where `Backend::pack` takes a matrix from, a few rows at a time, so that no second copy of the
/// whole is ever held.
struct MatrixSource {
  std::int64_t rows = 0, cols = 0;
  PackedMatrix::Form form = PackedMatrix::Form::plain;
  /// Writes rows [first, first + out.size()/cols) as f32 into `out`.
  Function<Result<void>(std::int64_t first, std::span<float> out)> read_rows;
  float input_scale = 0.0f;  ///< see PackedMatrix::input_scale
};

/// A matrix that was packed before: its bytes as quant/packed_layout.hpp lays them out.
struct PackedSource {
  std::int64_t rows = 0, cols = 0;
  PackedMatrix::Form form = PackedMatrix::Form::plain;
  MatrixFormat format{};
  float input_scale = 0.0f;
  /// Writes the bytes from `offset` on into `out`.
  Function<Result<void>(std::size_t offset, std::span<std::byte> out)> read;
  /// Instead of `read`: all bytes, aligned to 64, in memory that `owner` keeps alive. A device that
  /// can use them in place does.
  std::span<const std::byte> mapped{};
  std::shared_ptr<const void> owner{};
};

struct KvCacheShape {
  std::int32_t layers = 0, kv_heads = 0, head_dim = 0;
  std::int32_t page_tokens = 16;  ///< positions that one page holds, in every layer
  std::int32_t pages = 0;
  /// What keys and values are stored as: f32, f16 or i8. i8 keeps one factor, max|x| / 127, for the
  /// keys and one for the values of each position and kv head, set when they are stored.
  DType dtype = DType::f32;
};

/// Keys and values of every layer, in pages that sequences own by number. Page p of a sequence's
/// table holds its positions [p * page_tokens, (p + 1) * page_tokens).
class KvCache {
 public:
  virtual ~KvCache() = default;
  const KvCacheShape& shape() const noexcept { return shape_; }

 protected:
  explicit KvCache(const KvCacheShape& shape) noexcept : shape_(shape) {}

 private:
  KvCacheShape shape_;
};

/// Which tokens of which sequences one step computes, packed without padding: sequence s owns the
/// rows [sequence_starts[s], sequence_starts[s+1]) of every [tokens, …] tensor. All arrays are i32
/// and in device memory; the scalars are for the host side of a launch.
struct PackedBatch {
  ConstTensorView positions;        ///< [tokens], absolute position of each token in its sequence
  ConstTensorView sequence_starts;  ///< [sequences + 1]
  ConstTensorView context_lengths;  ///< [sequences], positions known once this step is done
  ConstTensorView page_tables;      ///< [sequences, max_pages]
  std::int32_t tokens = 0, sequences = 0;
  std::int32_t max_query_tokens = 0, max_context_tokens = 0;
};

struct MatmulOptions {
  /// [cols] f32, or no data for none: x is first normalised as `rms_norm` does with this weight. On
  /// quantized weights that is the pass that quantizes x.
  ConstTensorView norm{};
  float norm_epsilon = 0.0f;
  ConstTensorView bias{};   ///< [rows] f32, or no data for none
  bool accumulate = false;  ///< out += instead of out =: the residual connection (plain form only)
};

struct AttentionShape {
  std::int32_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0.0f;  ///< usually 1/sqrt(head_dim)
};

/// A point in a queue's work that others can wait for. Thread-safety: thread-safe.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool is_done() const noexcept = 0;
  virtual void wait() noexcept = 0;
};

/// Work for one device, executed in order and possibly later: nothing passed by pointer may be
/// changed, and no host memory of a copy freed, before `synchronize` or a later event says done.
/// All views except the host side of copies are device memory, and f32 unless said otherwise.
///
/// Operations do not report errors one by one: the first failure (a broken precondition included)
/// makes the rest a no-op and is returned by the next `synchronize`, which clears it.
/// Results of a row depend on nothing but that row's own sequence: not on the batch around it, the
/// number of threads, or how the prompt was cut into steps.
/// Thread-safety: thread-compatible; queues of one backend are independent.
class Queue {
 public:
  virtual ~Queue() = default;

  // --- memory and order -------------------------------------------------------------------------
  virtual void copy_to_device(void* device, std::span<const std::byte> host) noexcept = 0;
  virtual void copy_to_host(std::span<std::byte> host, const void* device) noexcept = 0;
  virtual Result<std::unique_ptr<Event>> record() noexcept = 0;
  /// Later work of this queue starts after `event`, which may belong to another queue.
  virtual void wait(Event& event) noexcept = 0;
  /// Blocks until all work is done. Errors: the first failure since the last call.
  virtual Result<void> synchronize() noexcept = 0;
  /// Takes, once, the memory beside its arguments that `matmul` by `weight` needs with up to
  /// `tokens` rows (`norm`: and MatmulOptions::norm); later ones of that size take none. A device
  /// that works in place has nothing to do. Errors: `out_of_memory`.
  virtual Result<void> reserve_matmul(const PackedMatrix& weight, std::int64_t tokens,
                                      bool norm) noexcept {
    (void)weight, (void)tokens, (void)norm;
    return {};
  }
  /// Memory that the queue holds for its operations.
  virtual std::size_t bytes() const noexcept { return 0; }

  // --- operations -------------------------------------------------------------------------------
  /// out [tokens, cols] = rows `ids` (i32 [tokens]) of `table`. An id outside fails the queue.
  virtual void embed(const PackedMatrix& table, ConstTensorView ids, TensorView out) noexcept = 0;

  /// out = x / sqrt(mean(x^2) + epsilon) * weight, row by row. x, out [tokens, d]; weight [d].
  virtual void rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                        TensorView out) noexcept = 0;

  /// out [tokens, n] = x [tokens, cols] W^T (+ bias) (+ out). n = rows, or rows/2 for `gated`.
  /// On i8 and i4 weights x is rounded to integers of 8 bits, with a scale for each row (or the
  /// matrix's input_scale), and products are summed in i32.
  virtual void matmul(ConstTensorView x, const PackedMatrix& weight, TensorView out,
                      const MatmulOptions& options) noexcept = 0;

  /// table [tokens, 2, half] = {cos, sin}(position * frequencies) * factor. positions i32 [tokens],
  /// frequencies [half]. Angles are f32 products, as the reference implementations compute them.
  virtual void rope_table(ConstTensorView positions, ConstTensorView frequencies, float factor,
                          TensorView table) noexcept = 0;

  /// Rotates queries and keys by `table` (half-split pairs: i with i + half, half = head_dim/2),
  /// queries in place, and stores keys and values of `layer` at their positions in the cache.
  /// qkv [tokens, (heads + 2 kv_heads) * head_dim]: all queries, then all keys, then all values.
  virtual void rotate_and_store(TensorView qkv, ConstTensorView table, const PackedBatch& batch,
                                const AttentionShape& shape, KvCache& cache,
                                std::int32_t layer) noexcept = 0;

  /// Causal attention of each token over its sequence's cached positions 0 … its own.
  /// qkv as above, after `rotate_and_store`; out [tokens, heads * head_dim].
  virtual void attention(ConstTensorView qkv, const PackedBatch& batch, const AttentionShape& shape,
                         const KvCache& cache, std::int32_t layer, TensorView out) noexcept = 0;

  /// out [n, d] = rows `indices` (i32 [n]) of x [tokens, d].
  virtual void gather_rows(ConstTensorView x, ConstTensorView indices, TensorView out) noexcept = 0;
};

struct QueueOptions {
  int threads = 0;  ///< CPU threads that work on one operation, the caller's included; 0 = all
};

/// One kind of device. Immutable after construction. Thread-safety: thread-safe.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const noexcept = 0;  ///< "cpu", "cuda"
  virtual std::string_view isa() const noexcept = 0;   ///< "avx512", "sm_90a", …

  /// Device memory, aligned to 64 bytes, uninitialised. Errors: `out_of_memory`.
  virtual Result<void*> allocate(std::size_t bytes) const noexcept = 0;
  virtual void deallocate(void* memory, std::size_t bytes) const noexcept = 0;

  /// Reads all rows of `source` and packs them as `format`, quantizing on the way.
  /// Errors: what the source reports, `out_of_memory`, `unsupported` for a format.
  virtual Result<std::unique_ptr<PackedMatrix>> pack(MatrixSource source,
                                                     MatrixFormat format) const noexcept = 0;
  /// Takes a matrix as it was packed. Errors: as `pack`; `invalid_argument` for the wrong number of
  /// mapped bytes.
  virtual Result<std::unique_ptr<PackedMatrix>> load_packed(PackedSource source) const noexcept = 0;
  /// Writes the bytes of a matrix of this backend as quant/packed_layout.hpp lays them out.
  /// Errors: `invalid_argument` for another backend's matrix or the wrong size of `out`.
  virtual Result<void> store_packed(const PackedMatrix& matrix,
                                    std::span<std::byte> out) const noexcept = 0;

  /// Bytes that one page takes over all layers; 0 when the shape, or its dtype, is not supported.
  virtual std::size_t kv_page_bytes(const KvCacheShape& shape) const noexcept = 0;
  virtual Result<std::unique_ptr<KvCache>> make_kv_cache(
      const KvCacheShape& shape) const noexcept = 0;

  virtual Result<std::unique_ptr<Queue>> make_queue(const QueueOptions& options) const noexcept = 0;
};

/// Device memory with one owner. Thread-safety: thread-compatible.
class DeviceBuffer {
 public:
  DeviceBuffer() noexcept = default;
  static Result<DeviceBuffer> allocate(const Backend& backend, std::size_t bytes) noexcept {
    Result<void*> memory = backend.allocate(bytes);
    if (!memory) return memory.error();
    DeviceBuffer buffer;
    buffer.backend_ = &backend;
    buffer.data_ = static_cast<std::byte*>(*memory);
    buffer.bytes_ = bytes;
    return buffer;
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_ != nullptr) backend_->deallocate(data_, bytes_);
  }
  std::byte* data() const noexcept {
    return data_;
  }  ///< a device address: not for the host to follow
  std::size_t size() const noexcept { return bytes_; }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  const Backend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace ciuic::inline CIUIC_ABI
