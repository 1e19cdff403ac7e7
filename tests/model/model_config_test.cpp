#include "ciuic/model/model_config.hpp"

#include "ciuic/model/generation_config.hpp"
#include "support/catch.hpp"
#include "support/model_directory.hpp"

using namespace ciuic;
using namespace ciuic::testing;

namespace {

/// The tiny config with members put in front; the first of two keys is the one that is left.
std::string with(const std::string& members) {
  std::string text = tiny_llama_config();
  for (std::size_t at = 0; at < members.size();) {
    const std::size_t end = members.find('"', at + 1);
    const std::string key = members.substr(at, end + 1 - at);
    if (const std::size_t old = text.find(key + ":"); old != std::string::npos) {
      text.replace(old, key.size(), "\"was_" + key.substr(1));
    }
    at = members.find(";\"", at);
    if (at != std::string::npos) ++at;
  }
  std::string joined = members;
  for (char& c : joined) c = c == ';' ? ',' : c;
  return "{" + joined + "," + text.substr(1);
}

Error failure(const std::string& members) {
  const Result<ModelConfig> parsed = ModelConfig::parse(with(members));
  return parsed ? Error(ErrorCode::internal, "was accepted") : parsed.error();
}
std::string message(const std::string& members) {
  const Error error = failure(members);
  CHECK(error.code() == ErrorCode::bad_model);
  return std::string(error.message());
}
std::string unsupported(const std::string& members) {
  const Error error = failure(members);
  CHECK(error.code() == ErrorCode::unsupported);
  return std::string(error.message());
}
ModelConfig parsed(const std::string& members) {
  const Result<ModelConfig> result = ModelConfig::parse(with(members));
  if (!result) FAIL(std::string(result.error().message()));
  return *result;
}

}  // namespace

TEST_CASE("A Llama config is read") {
  const ModelConfig config = ModelConfig::parse(tiny_llama_config()).value();
  CHECK(config.hidden_size == 16);
  CHECK(config.intermediate_size == 24);
  CHECK(config.num_hidden_layers == 2);
  CHECK(config.num_attention_heads == 4);
  CHECK(config.num_key_value_heads == 2);
  CHECK(config.head_dim == 4);
  CHECK(config.vocab_size == 32);
  CHECK(config.max_position_embeddings == 64);
  CHECK(config.rms_norm_eps == 1e-5);
  CHECK(config.rope_theta == 10000.0);
  CHECK(config.rope_scaling.kind == RopeScaling::Kind::none);
  CHECK_FALSE(config.tie_word_embeddings);
  CHECK(config.bos_token_id == 1);
  CHECK(config.eos_token_ids == std::vector<std::int32_t>{2});
  CHECK_FALSE(config.pad_token_id);
  CHECK(config.dtype == DType::f32);
}

TEST_CASE("What a Llama config leaves out means what it means to transformers") {
  const ModelConfig config =
      ModelConfig::parse(R"({"model_type":"llama","hidden_size":16,"intermediate_size":8,)"
                         R"("num_hidden_layers":1,"num_attention_heads":4,"vocab_size":9})")
          .value();
  CHECK(config.num_key_value_heads == 4);
  CHECK(config.head_dim == 4);
  CHECK(config.rms_norm_eps == 1e-6);
  CHECK(config.rope_theta == 10000.0);
  CHECK(config.max_position_embeddings == 2048);
  CHECK(config.bos_token_id == 1);
  CHECK(config.eos_token_ids == std::vector<std::int32_t>{2});
  CHECK_FALSE(config.dtype);
  CHECK(parsed("\"eos_token_id\":null").eos_token_ids.empty());
  CHECK(parsed("\"eos_token_id\":[2,5,31]").eos_token_ids == std::vector<std::int32_t>{2, 5, 31});
  CHECK_FALSE(parsed("\"pad_token_id\":-1").pad_token_id);
  CHECK(parsed("\"head_dim\":6").head_dim == 6);
  CHECK(parsed("\"auto_map\":{\"AutoConfig\":\"x.py\"};\"anything\":[{}]").head_dim == 4);
}

TEST_CASE("RoPE parameters are read in the old and the new place") {
  const ModelConfig old_linear = parsed(R"("rope_scaling":{"type":"linear","factor":2})");
  CHECK(old_linear.rope_scaling.kind == RopeScaling::Kind::linear);
  CHECK(old_linear.rope_scaling.factor == 2.0);
  const std::string llama3 =
      R"({"rope_type":"llama3","factor":8.0;"low_freq_factor":1.0;"high_freq_factor":4.0;)"
      R"("original_max_position_embeddings":32;"rope_theta":500000.0})";
  for (const std::string place : {"\"rope_scaling\":", "\"rope_parameters\":"}) {
    const ModelConfig config = parsed(place + llama3);
    CHECK(config.rope_theta == 500000.0);
    CHECK(config.rope_scaling.kind == RopeScaling::Kind::llama3);
    CHECK(config.rope_scaling.factor == 8.0);
    CHECK(config.rope_scaling.low_frequency_factor == 1.0);
    CHECK(config.rope_scaling.high_frequency_factor == 4.0);
    CHECK(config.rope_scaling.original_max_position_embeddings == 32);
  }
  CHECK(parsed(R"("rope_parameters":{"rope_type":"default","rope_theta":7.0})").rope_theta == 7.0);
  CHECK(parsed(R"("rope_scaling":null)").rope_scaling.kind == RopeScaling::Kind::none);
  CHECK(unsupported(R"("rope_scaling":{"rope_type":"yarn","factor":2})") ==
        "config.json: rope_scaling.rope_type: wanted \"default\", \"linear\" or \"llama3\", got "
        "\"yarn\"");
  CHECK(message(R"("rope_scaling":{"type":"linear"})") ==
        "config.json: rope_scaling.factor: wanted a number, got nothing");
  CHECK(message(R"("rope_scaling":{"type":"linear","factor":0})") ==
        "config.json: rope_scaling.factor: wanted a number above 0 up to 1e+06, got 0");
  CHECK(message(R"("rope_scaling":{"type":"llama3","factor":2,"low_freq_factor":4,)"
                R"("high_freq_factor":4})") ==
        "config.json: rope_scaling.high_freq_factor: wanted more than low_freq_factor, got no "
        "more");
}

TEST_CASE("A config that cannot be is refused in its own words") {
  CHECK(message("\"num_attention_heads\":7") ==
        "config.json: num_attention_heads: wanted a divisor of hidden_size 16, got 7");
  CHECK(message("\"num_key_value_heads\":8") ==
        "config.json: num_key_value_heads: wanted a divisor of num_attention_heads 4, got 8");
  CHECK(message("\"head_dim\":5") ==
        "config.json: head_dim: wanted an even number up to 1024, got 5");
  CHECK(message("\"num_attention_heads\":16;\"num_key_value_heads\":16") ==
        "config.json: head_dim: wanted an even number up to 1024, got 1 (hidden_size / "
        "num_attention_heads)");
  CHECK(message("\"hidden_size\":0") ==
        "config.json: hidden_size: wanted an integer from 1 to 262144, got 0");
  CHECK(message("\"hidden_size\":\"16\"") ==
        "config.json: hidden_size: wanted an integer from 1 to 262144, got \"16\"");
  CHECK(message("\"num_hidden_layers\":1001") ==
        "config.json: num_hidden_layers: wanted an integer from 1 to 1000, got 1001");
  CHECK(message("\"rope_theta\":-1.5") ==
        "config.json: rope_theta: wanted a number from 1 to 1e+12, got -1.5");
  CHECK(message("\"eos_token_id\":[1,32]") ==
        "config.json: eos_token_id: wanted an integer from 0 to 31, got 32");
  CHECK(message("\"tie_word_embeddings\":1") ==
        "config.json: tie_word_embeddings: wanted true or false, got 1");
  CHECK(unsupported("\"model_type\":\"qwen2\"") ==
        "config.json: model_type: wanted \"llama\", got \"qwen2\"");
  CHECK(unsupported("\"hidden_act\":\"gelu\"") ==
        "config.json: hidden_act: wanted \"silu\", got \"gelu\"");
  CHECK(ModelConfig::parse("[]", "x.json").error().message() ==
        "x.json: wanted an object, got an array");
  CHECK(ModelConfig::parse("{}").error().message() ==
        "config.json: model_type: wanted \"llama\", got nothing");
}

TEST_CASE("A generation config is read where there is one") {
  const TempDirectory directory;
  const GenerationConfig none = GenerationConfig::load(directory.path(), 32).value();
  CHECK(none.eos_token_ids.empty());
  CHECK_FALSE(none.temperature);
  write_tiny_llama(directory.path());
  const GenerationConfig config = GenerationConfig::load(directory.path(), 32).value();
  CHECK(config.eos_token_ids == std::vector<std::int32_t>{2, 3});
  CHECK(config.temperature == 0.7);
  const auto message_of = [](std::string_view text) {
    return std::string(GenerationConfig::parse(text, 32).error().message());
  };
  CHECK(message_of(R"({"top_p":1.5})") ==
        "generation_config.json: top_p: wanted a number from 0 to 1, got 1.5");
  CHECK(message_of(R"({"eos_token_id":32})") ==
        "generation_config.json: eos_token_id: wanted an integer from 0 to 31, got 32");
  CHECK(message_of(R"({"repetition_penalty":0.0})") ==
        "generation_config.json: repetition_penalty: wanted a number above 0 up to 1e+06, got 0");
  CHECK(message_of(R"({"max_new_tokens":0})").find("max_new_tokens") != std::string::npos);
}

TEST_CASE("Limits that no int32 holds allow what an int32 holds") {
  const auto sizes = [](const LoadLimits& limits, const std::string& vocab,
                        const std::string& layers) {
    const Result<ModelConfig> parsed = ModelConfig::parse(
        with("\"vocab_size\":" + vocab + ";\"num_hidden_layers\":" + layers), "c", limits);
    return parsed ? std::to_string(parsed->vocab_size) + " " +
                        std::to_string(parsed->num_hidden_layers)
                  : std::string(parsed.error().message());
  };
  for (std::uint64_t most : {UINT64_MAX, std::uint64_t{1} << 33, std::uint64_t{1} << 31}) {
    CAPTURE(most);
    const LoadLimits limits{.max_layers = most, .max_vocab = most};
    CHECK(sizes(limits, "32", "2") == "32 2");
    CHECK(sizes(limits, "2147483647", "2147483647") == "2147483647 2147483647");
    CHECK(sizes(limits, "4294967328", "2") ==
          "c: vocab_size: wanted an integer from 1 to 2147483647, got 4294967328");
    CHECK(sizes(limits, "32", "4294967298") ==
          "c: num_hidden_layers: wanted an integer from 1 to 2147483647, got 4294967298");
  }
}
