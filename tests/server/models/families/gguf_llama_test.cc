#include <functional>
#include <map>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/models/families/family.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kHidden = 64, kFfn = 96, kVocabulary = 32;

// Types as GGUF numbers them, with the bytes of 32 values.
struct GgmlType {
  uint32_t number;
  uint64_t bytes;
};
constexpr GgmlType kF32{0, 128};

struct Tensor {
  std::string name;
  std::vector<uint64_t> dimensions;
  GgmlType type;
};

// One layer of a model, its keys and tensors open to change before it is written.
class TinyGguf {
 public:
  explicit TinyGguf(GgmlType type = kF32) {
    numbers_ = {{"llama.block_count", 1},
                {"llama.embedding_length", kHidden},
                {"llama.feed_forward_length", kFfn},
                {"llama.attention.head_count", 4},
                {"llama.attention.head_count_kv", 2},
                {"llama.context_length", 128}};
    const auto matrix = [&](const std::string& name, uint64_t in, uint64_t out) {
      tensors.push_back({name, {in, out}, type});
    };
    matrix("token_embd.weight", kHidden, kVocabulary);
    matrix("blk.0.attn_q.weight", kHidden, kHidden);
    matrix("blk.0.attn_k.weight", kHidden, kHidden / 2);
    matrix("blk.0.attn_v.weight", kHidden, kHidden / 2);
    matrix("blk.0.attn_output.weight", kHidden, kHidden);
    matrix("blk.0.ffn_gate.weight", kHidden, kFfn);
    matrix("blk.0.ffn_up.weight", kHidden, kFfn);
    matrix("blk.0.ffn_down.weight", kFfn, kHidden);
    for (const char* norm :
         {"blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"}) {
      tensors.push_back({norm, {kHidden}, kF32});
    }
  }
  TinyGguf& Set(const std::string& key, uint64_t value) {
    numbers_[key] = value;
    return *this;
  }
  TinyGguf& SetText(const std::string& key, const std::string& value) {
    numbers_.erase(key);
    texts_[key] = value;
    return *this;
  }
  std::string Text() const {
    GgufWriter writer(tensors.size(), numbers_.size() + texts_.size() + 2);
    writer.String("general.architecture").Put<uint32_t>(8).String("llama");
    writer.Key<float>("llama.attention.layer_norm_rms_epsilon", 6, 1e-5f);
    for (const auto& [key, value] : numbers_) writer.Key<uint64_t>(key, 10, value);
    for (const auto& [key, value] : texts_) writer.String(key).Put<uint32_t>(8).String(value);
    uint64_t offset = 0;
    for (const Tensor& tensor : tensors) {
      writer.TensorInfo(tensor.name, tensor.dimensions, tensor.type.number, offset);
      uint64_t values = 1;
      for (const uint64_t dimension : tensor.dimensions) values *= dimension;
      offset += (values / 32 * tensor.type.bytes + 31) / 32 * 32;
    }
    return writer.Data(offset).text();
  }
  std::string Complaint() const {
    TemporaryFolder folder;
    folder.Write("m.gguf", Text());
    return std::string(OpenGgufLlama(folder.path() + "/m.gguf").status().message());
  }

  std::vector<Tensor> tensors;

 private:
  std::map<std::string, uint64_t> numbers_;
  std::map<std::string, std::string> texts_;
};

TEST(GgufLlamaTest, EveryServedTypeIsRead) {
  const std::pair<GgmlType, const char*> types[] = {
      {{0, 128}, "GGUF F32"}, {{1, 64}, "GGUF F16"},  {{30, 64}, "GGUF BF16"},
      {{8, 34}, "GGUF Q8_0"}, {{2, 18}, "GGUF Q4_0"}, {{3, 20}, "GGUF Q4_1"}};
  for (const auto& [type, name] : types) {
    TemporaryFolder folder;
    folder.Write("m.gguf", TinyGguf(type).Text());
    auto opened = OpenGgufLlama(folder.path() + "/m.gguf");
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(opened->weight_format, name);
    EXPECT_EQ(opened->config.head_size, 16);
    EXPECT_EQ(opened->config.vocabulary, static_cast<int64_t>(kVocabulary));
  }
  EXPECT_THAT(TinyGguf({12, 18}).Complaint(), HasSubstr("ggml type 12"));
}

TEST(GgufLlamaTest, NumbersOutOfBoundsAreNamed) {
  const auto with = [](const char* key, uint64_t value) {
    return TinyGguf().Set(key, value).Complaint();
  };
  EXPECT_THAT(with("llama.block_count", 0), HasSubstr("layer count is 0"));
  EXPECT_THAT(with("llama.block_count", (uint64_t{1} << 32) + 1), HasSubstr("layer count"));
  EXPECT_THAT(with("llama.block_count", 2), HasSubstr("'blk.1.attn_q.weight' is missing"));
  EXPECT_THAT(with("llama.attention.head_count", (uint64_t{1} << 32) + 4), HasSubstr("head count"));
  EXPECT_THAT(with("llama.attention.head_count_kv", 3), HasSubstr("key/value heads"));
  EXPECT_THAT(with("llama.embedding_length", 32), HasSubstr("the config says"));
  EXPECT_THAT(with("llama.feed_forward_length", UINT64_MAX), HasSubstr("feed_forward_length"));
  EXPECT_THAT(with("llama.context_length", 1 << 30), HasSubstr("context"));
  EXPECT_THAT(with("llama.context_length", 1), HasSubstr("context"));
  EXPECT_THAT(with("llama.expert_count", 8), HasSubstr("expert"));
  EXPECT_THAT(with("llama.rope.dimension_count", 8), HasSubstr("partial rotation"));
}

TEST(GgufLlamaTest, ValuesOfAnotherTypeAreNamedAndNeverTakenForAbsent) {
  for (const char* key : {"llama.block_count", "llama.attention.head_count_kv",
                          "llama.rope.freq_base", "llama.rope.dimension_count"}) {
    EXPECT_THAT(TinyGguf().SetText(key, "x").Complaint(), HasSubstr(key));
  }
}

TEST(GgufLlamaTest, WeightsThatWouldBeLeftOutAreRefused) {
  for (const char* name :
       {"blk.0.attn_q.bias", "blk.1.attn_norm.weight", "blk.0.attn_q_norm.weight"}) {
    TinyGguf model;
    model.tensors.push_back({name, {kHidden}, kF32});
    EXPECT_THAT(model.Complaint(), HasSubstr(name));
  }
  TinyGguf model;
  model.tensors.push_back({"rope_freqs.weight", {8}, {0, 128}});
  EXPECT_THAT(model.Complaint(), Not(HasSubstr("none that is served")));
}

// Wherever it is cut, a file is refused, and nothing is read beyond its end.
TEST(GgufLlamaTest, TruncatedFilesAreRefused) {
  const std::string whole = TinyGguf().Text();
  TemporaryFolder folder;
  for (size_t bytes = 1; bytes < whole.size(); bytes += bytes < 2000 ? 7 : 4001) {
    folder.Write("m.gguf", whole.substr(0, bytes));
    EXPECT_FALSE(OpenGgufLlama(folder.path() + "/m.gguf").ok()) << bytes;
  }
}

}  // namespace
}  // namespace lorica
