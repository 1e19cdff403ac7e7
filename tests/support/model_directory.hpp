// A small valid Llama directory for tests to load, and to break.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace ciuic::testing {

namespace fs = std::filesystem;

/// An empty directory that goes with the object.
class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = (fs::temp_directory_path() / "ciuic-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const noexcept { return path_; }
  fs::path operator/(std::string_view name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline void write_file(const fs::path& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::string u64_bytes(std::uint64_t value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

/// A safetensors file of that JSON text, true or not, and those bytes after it.
inline std::string safetensors_image(std::string_view header, std::string_view data) {
  return u64_bytes(header.size()).append(header).append(data);
}

struct TestTensor {
  std::string name, dtype;
  std::vector<std::int64_t> shape;
  std::string bytes;
};

/// The file of those tensors, in their order. Written here, not by the code under test.
inline std::string safetensors_of(const std::vector<TestTensor>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}", data;
  for (const TestTensor& tensor : tensors) {
    header += ",\"" + tensor.name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      header += (i == 0 ? "" : ",") + std::to_string(tensor.shape[i]);
    }
    header += "],\"data_offsets\":[" + std::to_string(data.size()) + ",";
    data += tensor.bytes;
    header += std::to_string(data.size()) + "]}";
  }
  return safetensors_image(header + "}", data);
}

inline TestTensor f32_tensor(std::string name, std::vector<std::int64_t> shape,
                             std::mt19937& random) {
  std::size_t elements = 1;
  for (std::int64_t extent : shape) elements *= static_cast<std::size_t>(extent);
  TestTensor tensor{std::move(name), "F32", std::move(shape), std::string(elements * 4, '\0')};
  std::normal_distribution<float> normal(0.0f, 0.2f);
  for (std::size_t i = 0; i < elements; ++i) {
    const float value = normal(random);
    std::memcpy(tensor.bytes.data() + 4 * i, &value, sizeof value);
  }
  return tensor;
}

/// Two layers, hidden 16, 4 heads on 2, vocabulary 32.
inline std::string tiny_llama_config() {
  return R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":16,)"
         R"("intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":4,)"
         R"("num_key_value_heads":2,"rms_norm_eps":1e-5,"rope_theta":10000.0,)"
         R"("max_position_embeddings":64,"vocab_size":32,"tie_word_embeddings":false,)"
         R"("hidden_act":"silu","attention_bias":false,"mlp_bias":false,"bos_token_id":1,)"
         R"("eos_token_id":2,"torch_dtype":"float32"})";
}

inline std::vector<TestTensor> tiny_llama_tensors() {
  std::mt19937 random(7);
  std::vector<TestTensor> all;
  const auto add = [&](std::string name, std::vector<std::int64_t> shape) {
    all.push_back(f32_tensor(std::move(name), std::move(shape), random));
  };
  add("model.embed_tokens.weight", {32, 16});
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", {16});
    add(prefix + "self_attn.q_proj.weight", {16, 16});
    add(prefix + "self_attn.k_proj.weight", {8, 16});
    add(prefix + "self_attn.v_proj.weight", {8, 16});
    add(prefix + "self_attn.o_proj.weight", {16, 16});
    add(prefix + "post_attention_layernorm.weight", {16});
    add(prefix + "mlp.gate_proj.weight", {24, 16});
    add(prefix + "mlp.up_proj.weight", {24, 16});
    add(prefix + "mlp.down_proj.weight", {16, 24});
  }
  add("model.norm.weight", {16});
  add("lm_head.weight", {32, 16});
  return all;
}

inline void write_tiny_llama(const fs::path& directory) {
  write_file(directory / "config.json", tiny_llama_config());
  write_file(directory / "generation_config.json", R"({"eos_token_id":[2,3],"temperature":0.7})");
  write_file(directory / "model.safetensors", safetensors_of(tiny_llama_tensors()));
}

/// The same model in two shards: the embedding and the first layer, and the rest.
inline void write_sharded_tiny_llama(const fs::path& directory) {
  const std::vector<TestTensor> all = tiny_llama_tensors();
  const auto middle = all.begin() + 10;
  write_file(directory / "config.json", tiny_llama_config());
  write_file(directory / "model-00001-of-00002.safetensors", safetensors_of({all.begin(), middle}));
  write_file(directory / "model-00002-of-00002.safetensors", safetensors_of({middle, all.end()}));
  std::string index = "{\"metadata\":{\"total_size\":1},\"weight_map\":{";
  for (auto tensor = all.begin(); tensor != all.end(); ++tensor) {
    index += (tensor == all.begin() ? "\"" : ",\"") + tensor->name + "\":\"model-0000" +
             (tensor < middle ? "1" : "2") + "-of-00002.safetensors\"";
  }
  write_file(directory / "model.safetensors.index.json", index + "}}");
}

}  // namespace ciuic::testing
