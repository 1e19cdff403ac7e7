// How much a model directory may ask for.
#pragma once

#include <cstdint>

#include "ciuic/base/version.hpp"

namespace ciuic::inline CIUIC_ABI {

/// Bounds that are checked before anything is allocated by what a file says. The defaults pass
/// every published model that is known and stop a hostile one early.
struct LoadLimits {
  std::uint64_t max_header_bytes =
      100'000'000;  ///< safetensors header (the format's own bound), index
  std::uint64_t max_config_bytes = std::uint64_t{4} << 20;  ///< config.json, generation_config.json
  /// In one directory. The largest published model, DeepSeek-V3, has 91,991.
  std::uint64_t max_tensors = std::uint64_t{1} << 18;
  std::uint64_t max_shards = 1024;                      ///< each holds a file descriptor
  std::uint64_t max_name_bytes = 4096;                  ///< of a tensor
  std::uint64_t max_elements = std::uint64_t{1} << 40;  ///< of a tensor
  std::uint64_t max_layers = 1000;
  std::uint64_t max_vocab = std::uint64_t{1} << 21;
};

}  // namespace ciuic::inline CIUIC_ABI
