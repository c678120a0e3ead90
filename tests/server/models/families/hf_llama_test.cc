#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/models/families/family.h"
#include "tests/fakes/safetensors_writer.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

// A copy of the tiny reference model, to be spoiled.
class HfLlamaTest : public ::testing::Test {
 protected:
  HfLlamaTest() {
    std::filesystem::copy(LORICA_TEST_DATA "/reference/tiny-llama", folder_.path(),
                          std::filesystem::copy_options::recursive |
                              std::filesystem::copy_options::overwrite_existing);
    config_ = Read("config.json");
  }
  Json Read(const std::string& name) const {
    std::ifstream file(folder_.path() + "/" + name);
    return Json::parse(file);
  }
  std::string Complaint() const {
    const auto opened = OpenHfLlama(folder_.path());
    return std::string(opened.status().message());
  }
  // What is said when one field has this value.
  std::string With(const std::string& key, const Json& value) {
    Json changed = config_;
    changed[key] = value;
    folder_.Write("config.json", changed.dump());
    return Complaint();
  }

  TemporaryFolder folder_;
  Json config_;
};

TEST_F(HfLlamaTest, NumbersOutOfBoundsAreNamed) {
  EXPECT_THAT(Complaint(), IsEmpty());
  EXPECT_THAT(With("num_hidden_layers", 0), HasSubstr("layer count is 0"));
  EXPECT_THAT(With("num_hidden_layers", int64_t{1} << 40), HasSubstr("layer count is 2147483647"));
  EXPECT_THAT(With("num_hidden_layers", (int64_t{1} << 32) + 2), HasSubstr("layer count"));
  EXPECT_THAT(With("hidden_size", -1), HasSubstr("hidden size is -1"));
  EXPECT_THAT(With("vocab_size", int64_t{1} << 40), HasSubstr("vocabulary is 1099511627776"));
  EXPECT_THAT(With("vocab_size", UINT64_MAX), HasSubstr("vocab_size is '18446744073709551615'"));
  EXPECT_THAT(With("num_key_value_heads", 3), HasSubstr("3 key/value heads"));
  EXPECT_THAT(With("rms_norm_eps", 0), HasSubstr("norm epsilon"));
  EXPECT_THAT(With("rope_theta", -5), HasSubstr("rope theta"));
}

TEST_F(HfLlamaTest, ValuesOfAnotherTypeAreNamedAndNeverTakenForAbsent) {
  const std::pair<const char*, Json> wrong[] = {{"num_hidden_layers", "2"},
                                                {"hidden_size", 64.5},
                                                {"head_dim", "24"},
                                                {"num_key_value_heads", Json::array({2, 2})},
                                                {"max_position_embeddings", "512"},
                                                {"rms_norm_eps", "1e-5"},
                                                {"rope_theta", "10000"},
                                                {"tie_word_embeddings", "yes"},
                                                {"attention_bias", 1},
                                                {"hidden_act", 5},
                                                {"rope_scaling", "llama3"},
                                                {"eos_token_id", "x"},
                                                {"bos_token_id", Json::array({"x"})}};
  for (const auto& [key, value] : wrong) {
    EXPECT_THAT(With(key, value), HasSubstr(std::string("config.json: ") + key + " is ")) << key;
  }
  for (const char* key : {"head_dim", "rope_scaling", "eos_token_id"}) {
    EXPECT_THAT(With(key, nullptr), Not(HasSubstr(" is 'null'"))) << "null means absent: " << key;
  }
  EXPECT_THAT(With("eos_token_id", 99999), IsEmpty()) << "a token that cannot come up";
}

TEST_F(HfLlamaTest, ScalingWithoutItsNumbersIsRefused) {
  EXPECT_THAT(With("rope_scaling", {{"rope_type", "llama3"}}), HasSubstr("missing factors"));
  EXPECT_THAT(With("rope_scaling", {{"rope_type", "linear"}}), HasSubstr("missing factors"));
  EXPECT_THAT(With("rope_scaling", {{"rope_type", "linear"}, {"factor", "2"}}),
              HasSubstr("factor"));
  EXPECT_THAT(With("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}}), HasSubstr("'yarn'"));
  EXPECT_THAT(With("rope_scaling", {{"type", "linear"}, {"factor", 2}}), IsEmpty());
}

TEST_F(HfLlamaTest, WhatChangesTheMathematicsIsRefused) {
  EXPECT_THAT(With("attention_bias", true), HasSubstr("attention_bias"));
  EXPECT_THAT(With("mlp_bias", true), HasSubstr("mlp_bias"));
  EXPECT_THAT(With("sliding_window", 4096), HasSubstr("sliding_window"));
  EXPECT_THAT(With("hidden_act", "gelu"), HasSubstr("silu"));
  EXPECT_THAT(With("quantization_config", Json::object()), HasSubstr("quantization_config"));
  EXPECT_THAT(With("model_type", "gpt2"), HasSubstr("'gpt2'"));
}

// A small file beside the model's own shards.
TEST_F(HfLlamaTest, WeightsThatWouldBeLeftOutAreRefused) {
  const auto with_tensor = [this](const std::string& name) {
    folder_.Write("extra.safetensors",
                  SafetensorsFile({{name, "F32", {2}, BytesOf(std::vector<float>{1, 2})}}));
    Json index = Json::parse(
        std::ifstream(LORICA_TEST_DATA "/reference/tiny-llama/model.safetensors.index.json"));
    index["weight_map"][name] = "extra.safetensors";
    folder_.Write("model.safetensors.index.json", index.dump());
    return Complaint();
  };
  EXPECT_THAT(with_tensor("model.layers.0.self_attn.q_proj.bias"), HasSubstr("q_proj.bias"));
  EXPECT_THAT(with_tensor("model.layers.2.input_layernorm.weight"), HasSubstr("layers.2"));
  EXPECT_THAT(with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq"), IsEmpty());
}

TEST_F(HfLlamaTest, FilesThatAreNotWhatTheyShouldBeAreNamed) {
  for (const char* name : {"config.json", "model.safetensors.index.json", "tokenizer_config.json",
                           "generation_config.json"}) {
    const std::string whole = Read(name).dump();
    for (const std::string& text : {std::string(), std::string("{"), std::string("[]"),
                                    std::string(200'000, '['), std::string("{\"a\": NaN}")}) {
      folder_.Write(name, text);
      EXPECT_THAT(Complaint(), HasSubstr(name));
    }
    folder_.Write(name, whole);
    EXPECT_THAT(Complaint(), IsEmpty());
  }
  for (const char* name : {"tokenizer_config.json", "generation_config.json", "tokenizer.json"}) {
    std::filesystem::remove(folder_.path() + "/" + name);
    EXPECT_THAT(Complaint(), IsEmpty()) << "a folder need not have " << name;
  }
}

TEST_F(HfLlamaTest, OneFileNeedsNoIndex) {
  TemporaryFolder folder;
  folder.Write("config.json", R"({"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4,
      "intermediate_size": 6, "num_attention_heads": 2, "vocab_size": 5,
      "tie_word_embeddings": true, "max_position_embeddings": 8, "rms_norm_eps": 1e-5})");
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    const int64_t count = shape.size() == 2 ? shape[0] * shape[1] : shape[0];
    tensors.push_back({name, "F32", shape, BytesOf(std::vector<float>(count, 0.5f))});
  };
  add("model.embed_tokens.weight", {5, 4});
  for (const char* linear : {"q", "k", "v", "o"}) {
    add(std::string("model.layers.0.self_attn.") + linear + "_proj.weight", {4, 4});
  }
  add("model.layers.0.mlp.gate_proj.weight", {6, 4});
  add("model.layers.0.mlp.up_proj.weight", {6, 4});
  add("model.layers.0.mlp.down_proj.weight", {4, 6});
  for (const char* norm : {"model.layers.0.input_layernorm.weight",
                           "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"}) {
    add(norm, {4});
  }
  folder.Write("model.safetensors", SafetensorsFile(tensors));
  auto opened = OpenHfLlama(folder.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->head.data, nullptr) << "tied";
  EXPECT_EQ(opened->config.kv_heads, 2);
  add("lm_head.weight", {5, 4});  // a copy that some files keep
  folder.Write("model.safetensors", SafetensorsFile(tensors));
  EXPECT_TRUE(OpenHfLlama(folder.path()).ok());
}

TEST_F(HfLlamaTest, ShardsAreFilesOfTheFolder) {
  Json index = Read("model.safetensors.index.json");
  const std::string tensor = index["weight_map"].begin().key();
  for (const Json& file : {Json("../x"), Json("/etc/passwd"), Json(".."), Json(""), Json(5)}) {
    index["weight_map"][tensor] = file;
    folder_.Write("model.safetensors.index.json", index.dump());
    EXPECT_THAT(Complaint(), HasSubstr("plain file name")) << file;
  }
  index["weight_map"][tensor] = "missing.safetensors";
  folder_.Write("model.safetensors.index.json", index.dump());
  EXPECT_THAT(Complaint(), HasSubstr("missing.safetensors"));
}

TEST_F(HfLlamaTest, TheTemplateOfAFileOfItsOwnGoesFirst) {
  folder_.Write("tokenizer_config.json",
                R"({"chat_template": [{"name": "tool_use", "template": "t"},
                    {"name": "default", "template": "d"}], "eos_token": {"content": "</s>"}})");
  auto opened = OpenHfLlama(folder_.path());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->text.chat_template, "d");
  EXPECT_EQ(opened->text.eos_token, "</s>");
  folder_.Write("chat_template.jinja", "j");
  EXPECT_EQ(OpenHfLlama(folder_.path())->text.chat_template, "j");
}

}  // namespace
}  // namespace lorica
