#include "cpu/cpu_queue.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/try.hpp"
#include "ciuic/base/checked.hpp"
#include "cpu/huge_pages.hpp"
#include "cpu/views.hpp"

namespace ciuic::inline CIUIC_ABI::cpu {
namespace {

class DoneEvent final : public Event {
 public:
  bool is_done() const noexcept override { return true; }
  void wait() noexcept override {}
};

// Guesses for how long work takes on one thread, to decide about sharing it.
constexpr double kMultiplyAddsPerNanosecond = 50.0;
constexpr double kBytesPerNanosecond = 10.0;
/// Head elements (of all heads) x positions of attention.
constexpr double kAttentionPerNanosecond = 25.0;
/// Time over ideal time from which on threads share the segments of a piece of attention.
constexpr double kUneven = 1.15;
/// Panels of a matrix that pass over a chunk of rows before the next chunk: so many, in so many
/// bytes.
constexpr std::size_t kGroupPanels = 4, kGroupBytes = 768 * 1024;
/// What one claimed chunk of a shared job should take: small against a step, large against a claim.
constexpr double kChunkNanoseconds = 8'000.0;

using Gemm = void (*)(const GemmTask&) noexcept;
Gemm gemm_of(const Kernels& kernels, DType dtype) noexcept {
  switch (dtype) {
    case DType::bf16:
      return kernels.gemm_bf16;
    case DType::i8:
      return kernels.gemm_i8;
    case DType::i4:
      return kernels.gemm_i4;
    default:
      return kernels.gemm_f32;
  }
}

/// Where the inputs of a matmul go that are not used as they are: one block of all rows, the rows'
/// scales, and i4's sums of groups, each a multiple of a cache line. Rows of integers are a line
/// longer than they need to be, so that rows of a power of two do not share the same sets of the
/// cache.
struct PreparedLayout {
  bool quantized = false;
  std::size_t group = 0, groups = 0;  // i4
  std::size_t row_bytes = 0, scales_at = 0, sums_at = 0;
  std::size_t bytes = 0;  // of everything; 0: inputs are used as they are

  /// Empty: more than can be addressed.
  static std::optional<PreparedLayout> of(const MatrixFormat& format, std::size_t rows,
                                          std::size_t columns, bool norm) noexcept {
    PreparedLayout layout;
    layout.quantized = format.dtype == DType::i8 || format.dtype == DType::i4;
    if (!layout.quantized && !norm) return layout;
    constexpr std::size_t kLine = Buffer::kAlignment;
    const auto aligned = [](std::size_t bytes) { return ceil_div(bytes, kLine) * kLine; };
    if (format.dtype == DType::i4) {
      layout.group = static_cast<std::size_t>(format.group);
      layout.groups = ceil_div(columns, layout.group);
    }
    layout.row_bytes = layout.quantized
                           ? aligned(std::max(columns, layout.group * layout.groups)) + kLine
                           : columns * sizeof(float);
    const std::size_t each =  // and what scales and sums take of a row
        layout.row_bytes + sizeof(float) + layout.groups * sizeof(std::int32_t);
    const auto all = checked_mul(rows, each);
    if (!all || *all > std::numeric_limits<std::size_t>::max() - 3 * kLine) return std::nullopt;
    layout.scales_at = aligned(rows * layout.row_bytes);
    layout.sums_at =
        layout.scales_at + (layout.quantized ? aligned(rows * sizeof(float)) : std::size_t{0});
    layout.bytes = layout.sums_at + aligned(rows * layout.groups * sizeof(std::int32_t));
    return layout;
  }
};

std::size_t grain_for(double nanoseconds_per_item) noexcept {
  const double items = kChunkNanoseconds / nanoseconds_per_item;
  return items < 1.0 ? 1 : items > 1e6 ? 1'000'000 : static_cast<std::size_t>(items);
}

}  // namespace

bool CpuQueue::begin(std::string_view name) noexcept {
  operation_ = name;
  return !error_;
}

void CpuQueue::copy_to_device(void* device, std::span<const std::byte> host) noexcept {
  if (!begin("copy_to_device") || host.empty()) return;
  if (device == nullptr) {
    fail(ErrorCode::invalid_argument, {"device: wanted an address, got null"});
    return;
  }
  std::memcpy(device, host.data(), host.size());
}

void CpuQueue::copy_to_host(std::span<std::byte> host, const void* device) noexcept {
  if (!begin("copy_to_host") || host.empty()) return;
  if (device == nullptr) {
    fail(ErrorCode::invalid_argument, {"device: wanted an address, got null"});
    return;
  }
  std::memcpy(host.data(), device, host.size());
}

Result<std::unique_ptr<Event>> CpuQueue::record() noexcept {
  std::unique_ptr<Event> event(new (std::nothrow) DoneEvent());
  if (event == nullptr) return Error(ErrorCode::out_of_memory, "record: no memory for an event");
  return event;
}

Result<void> CpuQueue::synchronize() noexcept {
  if (!error_) return {};
  Error error = *std::move(error_);
  error_.reset();
  return error;
}

void CpuQueue::embed(const PackedMatrix& table, ConstTensorView ids, TensorView out) noexcept {
  if (!begin("embed")) return;
  const CpuPackedMatrix* matrix = require_matrix("table", table);
  if (matrix == nullptr || !require_rank("ids", ids, 1)) return;
  if (table.form() != PackedMatrix::Form::plain) {
    fail(ErrorCode::invalid_argument, {"table: wanted the plain form, got the gated one"});
    return;
  }
  const std::int64_t tokens = ids.shape[0];
  if (!require_tensor("ids", ids, DType::i32, {tokens}) ||
      !require_tensor("out", out, DType::f32, {tokens, table.cols()})) {
    return;
  }
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (!require(integers(ids)[t] >= 0 && integers(ids)[t] < table.rows(), "ids",
                 "rows of the table", integers(ids)[t])) {
      return;
    }
  }
  const std::size_t k = unsigned_of(table.cols());
  const double each = static_cast<double>(k) * 8.0;  // a cache miss per element, several at once
  team_.run(unsigned_of(tokens), grain_for(each), static_cast<double>(tokens) * each,
            [&](std::size_t begin, std::size_t end, float*) {
              for (std::size_t t = begin; t < end; ++t) {
                matrix->read_row(unsigned_of(integers(ids)[t]), floats(out) + t * k);
              }
            });
}

void CpuQueue::rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                        TensorView out) noexcept {
  if (!begin("rms_norm") || !require_rank("x", x, 2)) return;
  const std::int64_t tokens = x.shape[0], d = x.shape[1];
  if (!require_tensor("x", x, DType::f32, {tokens, d}) ||
      !require_tensor("weight", weight, DType::f32, {d}) ||
      !require_tensor("out", out, DType::f32, {tokens, d})) {
    return;
  }
  const std::size_t columns = unsigned_of(d);
  const double each = static_cast<double>(d) / 4.0 + 1.0;
  team_.run(unsigned_of(tokens), grain_for(each), static_cast<double>(tokens) * each,
            [&](std::size_t begin, std::size_t end, float*) {
              kernels_.rms_norm({floats(x) + begin * columns, floats(weight),
                                 floats(out) + begin * columns, end - begin, columns, epsilon});
            });
}

Result<void> CpuQueue::reserve_prepared(std::size_t bytes) noexcept {
  if (prepared_.size() >= bytes) return {};
  prepared_ = Buffer();  // before the new one: both together might not fit
  CIUIC_ASSIGN_OR_RETURN(prepared_, Buffer::allocate(*host_.memory, bytes));
  advise_huge_pages(*host_.memory, prepared_.data(), bytes);
  return {};
}

Result<void> CpuQueue::reserve_matmul(const PackedMatrix& weight, std::int64_t tokens,
                                      bool norm) noexcept {
  if (tokens < 0) return Error(ErrorCode::invalid_argument, "reserve_matmul: tokens: below 0");
  const auto layout =
      PreparedLayout::of(weight.format(), unsigned_of(tokens), unsigned_of(weight.cols()), norm);
  if (!layout) return Error(ErrorCode::out_of_memory, "reserve_matmul: too large to address");
  return reserve_prepared(layout->bytes);
}

bool CpuQueue::prepare_rows(GemmTask& task, const float* x, std::size_t rows,
                            const CpuPackedMatrix& weight, const MatmulOptions& options) noexcept {
  const float* norm = options.norm.data == nullptr ? nullptr : floats(options.norm);
  const std::size_t k = task.k;
  const auto layout = PreparedLayout::of(weight.format(), rows, k, norm != nullptr);
  if (!layout) return fail(ErrorCode::out_of_memory, {"too large"});
  if (layout->bytes == 0) {
    task.x = x;
    return true;
  }
  if (!reserve_prepared(layout->bytes)) {
    return fail(ErrorCode::out_of_memory, {"no memory for the prepared input"});
  }
  std::byte* const base = prepared_.data();

  const double each = static_cast<double>(k) * 0.4 + 10.0;
  const auto share = [&](const auto& work) {
    team_.run(rows, grain_for(each), static_cast<double>(rows) * each,
              [&](std::size_t begin, std::size_t end, float*) { work(begin, end - begin); });
  };
  if (!layout->quantized) {
    float* const out = reinterpret_cast<float*>(base);
    share([&](std::size_t first, std::size_t count) {
      kernels_.rms_norm({x + first * k, norm, out + first * k, count, k, options.norm_epsilon});
    });
    task.x = out;
    return true;
  }
  QuantizedRows& q = task.q;
  q.stride = layout->row_bytes;
  q.group = layout->group;
  q.groups = layout->groups;
  q.integers = reinterpret_cast<std::uint8_t*>(base);
  q.scales = reinterpret_cast<float*>(base + layout->scales_at);
  const bool i4 = weight.format().dtype == DType::i4;
  if (i4) {
    q.group_sums = reinterpret_cast<std::int32_t*>(base + layout->sums_at);
  } else {
    task.column_scales = weight.scales();
    task.column_sums = weight.sums();
  }
  const auto quantize = i4 ? kernels_.quantize_rows_i4 : kernels_.quantize_rows_i8;
  share([&](std::size_t first, std::size_t count) {
    QuantizedRows part = q;
    part.integers += first * q.stride;
    part.scales += first;
    if (part.group_sums != nullptr) part.group_sums += first * q.groups;
    quantize({x + first * k, norm, options.norm_epsilon, weight.input_scale(), part, count, k});
  });
  return true;
}

void CpuQueue::matmul(ConstTensorView x, const PackedMatrix& weight, TensorView out,
                      const MatmulOptions& options) noexcept {
  if (!begin("matmul")) return;
  const CpuPackedMatrix* matrix = require_matrix("weight", weight);
  if (matrix == nullptr || !require_rank("x", x, 2)) return;
  const bool gated = weight.form() == PackedMatrix::Form::gated;
  const std::int64_t tokens = x.shape[0];
  const std::int64_t columns = gated ? weight.rows() / 2 : weight.rows();
  if (!require_tensor("x", x, DType::f32, {tokens, weight.cols()}) ||
      !require_tensor("out", out, DType::f32, {tokens, columns})) {
    return;
  }
  const bool has_bias = options.bias.data != nullptr;
  if (has_bias && !require_tensor("options.bias", options.bias, DType::f32, {weight.rows()})) {
    return;
  }
  if (gated && options.accumulate) {
    fail(ErrorCode::invalid_argument,
         {"options.accumulate: wanted false for the gated form, got true"});
    return;
  }
  if (tokens == 0) return;

  const bool has_norm = options.norm.data != nullptr;
  if (has_norm && !require_tensor("options.norm", options.norm, DType::f32, {weight.cols()})) {
    return;
  }

  GemmTask shared;
  shared.panels = matrix->data();
  shared.panel_bytes = matrix->layout().panel_bytes;
  shared.bias = has_bias ? floats(options.bias) : nullptr;
  shared.out = floats(out);
  shared.k = unsigned_of(weight.cols());
  shared.out_columns = unsigned_of(columns);
  shared.accumulate = options.accumulate;
  shared.gated = gated;
  if (!prepare_rows(shared, floats(x), unsigned_of(tokens), *matrix, options)) return;
  const auto gemm = gemm_of(kernels_, weight.format().dtype);

  // Groups of panels outside, chunks of rows inside, panels of the group innermost: weights are
  // fetched from memory once, and what is used next is still in the L2 cache, be it the group's
  // weights or the chunk's integers. Rows of floats would not fit beside more than one panel.
  const std::size_t rows = unsigned_of(tokens);
  const std::size_t chunks = ceil_div(rows, kGemmChunkRows);
  // Of whole tiles, but for the last.
  const std::size_t chunk_rows = ceil_div(ceil_div(rows, chunks), kGemmTileRows) * kGemmTileRows;
  const std::size_t panels = ceil_div(unsigned_of(columns), gated ? kGatedColumns : kPanelColumns);
  const double weights = static_cast<double>(shared.k * kPanelColumns);
  const bool integers_only = shared.q.integers != nullptr;
  const double compute = weights * static_cast<double>(rows) / (integers_only ? 4.0 : 1.0) /
                         kMultiplyAddsPerNanosecond;
  const double stream = static_cast<double>(shared.panel_bytes) / kBytesPerNanosecond;
  const double each = std::fmax(compute / static_cast<double>(chunks), stream);
  const std::size_t group =
      integers_only ? std::clamp<std::size_t>(kGroupBytes / shared.panel_bytes, 1, kGroupPanels)
                    : 1;
  team_.run(chunks * panels, grain_for(each), each * static_cast<double>(chunks * panels),
            [&](std::size_t begin, std::size_t end, float* scratch) {
              GemmTask task = shared;
              task.scratch = scratch;
              for (; begin < end; ++begin) {
                const std::size_t first_panel = begin / (group * chunks) * group;
                const std::size_t group_panels = std::min(group, panels - first_panel);
                const std::size_t in_group = begin - first_panel * chunks;
                const std::size_t chunk = in_group / group_panels;
                task.row_begin = std::min(rows, chunk * chunk_rows);
                task.row_end = std::min(rows, task.row_begin + chunk_rows);
                task.panel_begin = first_panel + in_group % group_panels;
                task.panel_end = task.panel_begin + 1;
                gemm(task);
              }
            });
}

void CpuQueue::rope_table(ConstTensorView positions, ConstTensorView frequencies, float factor,
                          TensorView table) noexcept {
  if (!begin("rope_table") || !require_rank("positions", positions, 1) ||
      !require_rank("frequencies", frequencies, 1)) {
    return;
  }
  const std::int64_t tokens = positions.shape[0], half = frequencies.shape[0];
  if (!require_tensor("positions", positions, DType::i32, {tokens}) ||
      !require_tensor("frequencies", frequencies, DType::f32, {half}) ||
      !require_tensor("table", table, DType::f32, {tokens, 2, half})) {
    return;
  }
  const std::size_t pairs = unsigned_of(half);
  const double each = static_cast<double>(half) * 15.0 + 1.0;
  team_.run(unsigned_of(tokens), grain_for(each), static_cast<double>(tokens) * each,
            [&](std::size_t begin, std::size_t end, float*) {
              for (std::size_t t = begin; t < end; ++t) {
                const float position = static_cast<float>(integers(positions)[t]);
                float* cosine = floats(table) + t * 2 * pairs;
                float* sine = cosine + pairs;
                for (std::size_t i = 0; i < pairs; ++i) {
                  const float angle = position * floats(frequencies)[i];
                  cosine[i] = std::cos(angle) * factor;
                  sine[i] = std::sin(angle) * factor;
                }
              }
            });
}

void CpuQueue::rotate_and_store(TensorView qkv, ConstTensorView table, const PackedBatch& batch,
                                const AttentionShape& shape, KvCache& cache,
                                std::int32_t layer) noexcept {
  if (!begin("rotate_and_store")) return;
  const CpuKvCache* checked = require_cache(cache, layer, shape);
  if (checked == nullptr || !require_batch(batch, *checked)) return;
  const std::int64_t width = (std::int64_t{shape.heads} + 2 * shape.kv_heads) * shape.head_dim;
  if (!require_tensor("qkv", qkv, DType::f32, {batch.tokens, width}) ||
      !require_tensor("table", table, DType::f32, {batch.tokens, 2, shape.head_dim / 2})) {
    return;
  }
  CpuKvCache& mine = static_cast<CpuKvCache&>(cache);
  std::byte* const pages = mine.layer(layer);
  const KvLayout& layout = mine.layout();
  const std::int32_t* starts = integers(batch.sequence_starts);
  const std::size_t max_pages = unsigned_of(batch.page_tables.shape[1]);
  const double each = static_cast<double>(width);
  team_.run(unsigned_of(batch.tokens), grain_for(each), static_cast<double>(batch.tokens) * each,
            [&](std::size_t begin, std::size_t end, float*) {
              std::size_t sequence = 0;
              for (std::size_t t = begin; t < end; ++t) {
                while (unsigned_of(starts[sequence + 1]) <= t) ++sequence;
                const std::size_t position = unsigned_of(integers(batch.positions)[t]);
                const std::int32_t page = integers(
                    batch.page_tables)[sequence * max_pages + position / layout.page_tokens];
                kernels_.rotate_and_store(
                    {floats(qkv) + t * unsigned_of(width), floats(table) + t * layout.head_dim,
                     pages + unsigned_of(page) * mine.page_bytes(), layout,
                     unsigned_of(shape.heads), position % layout.page_tokens});
              }
            });
}

void CpuQueue::attention(ConstTensorView qkv, const PackedBatch& batch, const AttentionShape& shape,
                         const KvCache& cache, std::int32_t layer, TensorView out) noexcept {
  if (!begin("attention")) return;
  const CpuKvCache* mine = require_cache(cache, layer, shape);
  if (mine == nullptr || !require_batch(batch, *mine)) return;
  const std::int64_t width = (std::int64_t{shape.heads} + 2 * shape.kv_heads) * shape.head_dim;
  const std::int64_t out_width = std::int64_t{shape.heads} * shape.head_dim;
  if (!require_tensor("qkv", qkv, DType::f32, {batch.tokens, width}) ||
      !require_tensor("out", out, DType::f32, {batch.tokens, out_width})) {
    return;
  }
  if (batch.tokens == 0) return;

  // A piece of work is some tokens of one sequence x the heads (or some of them) of one kv head.
  // Every sequence gets slots for its tiles of tokens without a list of them being kept: those of
  // sequence s begin at starts[s] / tile_tokens + s, which leaves enough for each.
  const KvLayout& layout = mine->layout();
  const std::size_t group = unsigned_of(shape.heads) / layout.kv_heads;
  const std::size_t pieces = ceil_div(group, kAttentionRows);
  const std::size_t tile_heads = ceil_div(group, pieces);
  const std::size_t parts = layout.kv_heads * pieces;
  const std::size_t sequences = unsigned_of(batch.sequences);
  const std::int32_t* starts = integers(batch.sequence_starts);
  double keys = 0.0;
  std::int32_t longest = 0, most_tokens = 0;
  for (std::size_t s = 0; s < sequences; ++s) {
    const std::int32_t context = integers(batch.context_lengths)[s];
    const std::int32_t tokens = starts[s + 1] - starts[s];
    keys += static_cast<double>(tokens) * context;
    longest = std::max(longest, context);
    most_tokens = std::max(most_tokens, tokens);
  }
  const std::size_t tile_tokens = longest <= 2 * std::int64_t{most_tokens}
                                      ? attention_piece_tokens(unsigned_of(batch.tokens), sequences,
                                                               parts, tile_heads, team_.size())
                                      : kAttentionRows / tile_heads;
  const std::size_t slots = unsigned_of(batch.tokens) / tile_tokens + sequences;
  const auto first_slot = [&](std::size_t s) { return unsigned_of(starts[s]) / tile_tokens + s; };

  const double nanoseconds = keys * static_cast<double>(out_width) / kAttentionPerNanosecond;
  const std::size_t items = slots * parts;
  // One token per sequence reads every key once: a page's heads lie side by side. Longer pieces
  // read them again and again: one head at a time stays in the cache.
  const bool once = batch.tokens == batch.sequences;
  const auto find = [&](std::size_t item, AttentionTask& task) {
    const std::size_t part = once ? item % parts : item / slots;
    // From the end: a long prompt's last tiles see most, and are best begun first.
    const std::size_t slot = slots - 1 - (once ? item / parts : item % slots);
    std::size_t low = 0, high = sequences;  // the last sequence whose slots begin at or below
    while (high - low > 1) {
      const std::size_t middle = (low + high) / 2;
      (first_slot(middle) <= slot ? low : high) = middle;
    }
    const std::size_t token = unsigned_of(starts[low]) + (slot - first_slot(low)) * tile_tokens;
    const std::size_t end = unsigned_of(starts[low + 1]);
    if (token >= end) return false;
    task.kv_head = part / pieces;
    const std::size_t head_in_group = part % pieces * tile_heads;
    const std::size_t head = task.kv_head * group + head_in_group;
    task.q = floats(qkv) + token * unsigned_of(width) + head * layout.head_dim;
    task.out = floats(out) + token * unsigned_of(out_width) + head * layout.head_dim;
    task.q_stride = unsigned_of(width);
    task.out_stride = unsigned_of(out_width);
    task.tokens = std::min(tile_tokens, end - token);
    task.heads = std::min(tile_heads, group - head_in_group);
    task.positions = integers(batch.positions) + token;
    task.pages = mine->layer(layer);
    task.page_table = integers(batch.page_tables) + low * unsigned_of(batch.page_tables.shape[1]);
    task.layout = layout;
    task.scale = shape.scale;
    return true;
  };
  const auto context_of = [](const AttentionTask& task) {
    std::int32_t last = 0;
    for (std::size_t t = 0; t < task.tokens; ++t) last = std::max(last, task.positions[t]);
    return unsigned_of(last) + 1;
  };

  // Where whole pieces would leave threads idle, each segment of a context becomes one of its own.
  const std::size_t segments = ceil_div(unsigned_of(longest), kSegmentPositions);
  const std::size_t most_rows = std::min(tile_tokens, unsigned_of(most_tokens)) * tile_heads;
  const std::size_t item_floats = segments * most_rows * (layout.value_stride + kPartialFloats);
  const std::size_t turns = ceil_div(items, team_.size());
  const bool uneven =
      static_cast<double>(turns * team_.size()) > kUneven * static_cast<double>(items);
  if (segments > 1 && uneven && items * item_floats <= partials_.as<float>().size()) {
    const auto with_partials = [&](std::size_t item, AttentionTask& task) {
      task.partials = partials_.as<float>().data() + item * item_floats;
      return find(item, task);
    };
    team_.run(items * segments, 1, nanoseconds,
              [&](std::size_t begin, std::size_t end, float* scratch) {
                for (; begin < end; ++begin) {
                  AttentionTask task;
                  task.scratch = scratch;
                  task.segment = begin % segments;
                  if (with_partials(begin / segments, task) &&
                      task.segment * kSegmentPositions < context_of(task)) {
                    kernels_.attention(task);
                  }
                }
              });
    team_.run(items, 1, 0.0, [&](std::size_t begin, std::size_t end, float* scratch) {
      for (; begin < end; ++begin) {
        AttentionTask task;
        task.scratch = scratch;
        if (with_partials(begin, task)) kernels_.merge_attention(task);
      }
    });
    return;
  }

  const double each = nanoseconds / static_cast<double>(items);
  const std::size_t grain = std::min(grain_for(each / 4.0), ceil_div(items, 8 * team_.size()));
  team_.run(items, grain, nanoseconds, [&](std::size_t begin, std::size_t end, float* scratch) {
    AttentionTask tasks[2];
    bool found[2] = {find(begin, tasks[0]), false};
    for (std::size_t item = begin; item < end; ++item) {
      AttentionTask& task = tasks[(item - begin) % 2];
      AttentionTask& next = tasks[(item - begin + 1) % 2];
      found[(item - begin + 1) % 2] = item + 1 < end && find(item + 1, next);
      if (!found[(item - begin) % 2]) continue;
      task.scratch = scratch;
      task.next_page_table = nullptr;
      if (once && found[(item - begin + 1) % 2]) {
        task.next_page_table = next.page_table;
        task.next_kv_head = next.kv_head;
        task.next_first = 0;
        task.next_context = context_of(next);
      }
      kernels_.attention(task);
    }
  });
}

void CpuQueue::gather_rows(ConstTensorView x, ConstTensorView indices, TensorView out) noexcept {
  if (!begin("gather_rows") || !require_rank("x", x, 2) || !require_rank("indices", indices, 1)) {
    return;
  }
  const std::int64_t tokens = x.shape[0], d = x.shape[1], count = indices.shape[0];
  if (!require_tensor("x", x, DType::f32, {tokens, d}) ||
      !require_tensor("indices", indices, DType::i32, {count}) ||
      !require_tensor("out", out, DType::f32, {count, d})) {
    return;
  }
  const std::size_t columns = unsigned_of(d);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t row = integers(indices)[i];
    if (!require(row >= 0 && row < tokens, "indices", "rows of x", row)) return;
    if (columns == 0) continue;
    std::memcpy(floats(out) + unsigned_of(i) * columns, floats(x) + unsigned_of(row) * columns,
                columns * sizeof(float));
  }
}

}  // namespace ciuic::inline CIUIC_ABI::cpu
