// Compiled with -fno-exceptions -fno-rtti: every header of the batching side, instantiated.
#include <coroutine>
#include <vector>

#include "ciuic/batching/adapted_batcher.hpp"
#include "ciuic/batching/batches.hpp"
#include "ciuic/batching/dynamic_batcher.hpp"
#include "ciuic/batching/packed_adapter.hpp"
#include "ciuic/batching/padded_adapter.hpp"
#include "ciuic/batching/text_adapter.hpp"
#include "ciuic/exec/thread_pool.hpp"

template class ciuic::DynamicBatcher<int, long>;
template class ciuic::Future<long>;
template class ciuic::AdaptedBatcher<ciuic::PaddedAdapter<int>>;
template class ciuic::AdaptedBatcher<ciuic::BucketedAdapter<int>>;
template class ciuic::AdaptedBatcher<ciuic::PackedAdapter<int>>;

ciuic::Result<long> batch_without_exceptions(int request);
ciuic::Result<long> batch_without_exceptions(int request) {
  ciuic::ThreadPool pool;
  ciuic::DynamicBatcher<int, long> batcher(
      [](std::span<const int> in) { return std::vector<long>(in.begin(), in.end()); },
      {.host = {.executor = &pool}});
  long sum = 0;
  batcher.submit(request).on_ready([&](ciuic::Result<long> answer) { sum += *answer; });
  for (auto& batch : ciuic::batches(std::vector<long>{1, 2, 3})) sum += batch[0];
  return batcher.submit(request).get();
}

ciuic::Result<ciuic::Rows<float>> adapt_without_exceptions(std::string_view text);
ciuic::Result<ciuic::Rows<float>> adapt_without_exceptions(std::string_view text) {
  ciuic::AdaptedBatcher batcher(
      [](const ciuic::PackedInput<int>& in, ciuic::Rows<float>& out) {
        out.resize(in.requests, 1);
      },
      ciuic::TextAdapter(ciuic::PackedAdapter<int>(), [](std::string_view s) { return s; }));
  return batcher.submit(text).get();
}
