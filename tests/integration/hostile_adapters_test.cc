// Goal: whatever lies in an adapter's folder is served right, or refused with a sentence when a
// request names it: in time, whatever its size, and nobody else notices.
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "tests/fakes/safetensors_writer.h"
#include "tests/integration/bystander.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using grpc::StatusCode;
using testing::AnyOf;
using testing::Eq;
using testing::HasSubstr;
using testing::Not;

constexpr int kHidden = 64, kQueries = 96, kRank = 4;
constexpr int kLogprobs = 20;
constexpr char kStem[] = "base_model.model.model.layers.0.self_attn.q_proj.";

const auto kNotServable = StatusCode::FAILED_PRECONDITION;

using Fields = std::map<std::string, std::string>;  // of adapter_config.json, as JSON

std::string ConfigWith(const Fields& change) {
  Fields fields = {{"peft_type", "\"LORA\""}, {"r", "4"}, {"lora_alpha", "8"}};
  for (const auto& [name, value] : change) fields[name] = value;
  std::vector<std::string> parts;
  for (const auto& [name, value] : fields) {
    if (!value.empty()) parts.push_back(absl::StrCat("\"", name, "\":", value));
  }
  return absl::StrCat("{", absl::StrJoin(parts, ","), "}");
}

TensorToWrite Floats(const std::string& name, std::vector<int64_t> shape, float value = 0.125f) {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return {name, "F32", std::move(shape), BytesOf(std::vector<float>(count, value))};
}

std::vector<TensorToWrite> Pair(float value = 0.125f, int rank = kRank) {
  return {Floats(absl::StrCat(kStem, "lora_A.weight"), {rank, kHidden}, value),
          Floats(absl::StrCat(kStem, "lora_B.weight"), {kQueries, rank})};
}

class HostileAdapters : public BystanderTest {
 protected:
  std::string Path(const std::string& file) {
    return absl::StrCat(server().adapters().path(), "/", name_, "/", file);
  }
  void Write(const std::string& file, const std::string& text) {
    server().adapters().Write(absl::StrCat(name_, "/", file), text);
  }
  // A new adapter of these two files; what a request for it is answered.
  grpc::Status StatusOf(const std::string& config, const std::string& weights) {
    name_ = absl::StrCat("hostile-", count_++);
    Write("adapter_config.json", config);
    Write("adapter_model.safetensors", weights);
    return Ask();
  }
  grpc::Status Ask() {
    v1::GenerateRequest request = TokensRequest(8);
    request.set_adapter_id(name_);
    request.set_logprobs(kLogprobs);
    response_.Clear();
    return Generate(request, {}, &response_);
  }
  grpc::Status StatusOfConfig(const std::string& config) {
    return StatusOf(config, SafetensorsFile(Pair()));
  }
  grpc::Status StatusOfWeights(const std::string& bytes) { return StatusOf(ConfigWith({}), bytes); }
  // For the reason that `word` is of: what is wrong beside it would be refused for another.
  static void ExpectRefused(const grpc::Status& status, const std::string& word) {
    EXPECT_EQ(status.error_code(), kNotServable) << word;
    EXPECT_THAT(status.error_message(), HasSubstr(word));
  }
  StatusCode CodeOfConfig(const std::string& config) { return StatusOfConfig(config).error_code(); }
  StatusCode CodeOfField(const std::string& name, const std::string& value) {
    return CodeOfConfig(ConfigWith({{name, value}}));
  }
  StatusCode CodeOfWeights(const std::string& bytes) { return StatusOfWeights(bytes).error_code(); }
  StatusCode CodeOfTensors(const std::vector<TensorToWrite>& tensors, const Fields& change = {}) {
    return StatusOf(ConfigWith(change), SafetensorsFile(tensors)).error_code();
  }
  std::vector<int32_t> tokens() const {
    return {response_.token_ids().begin(), response_.token_ids().end()};
  }

  std::string name_;
  v1::GenerateResponse response_;

 private:
  int count_ = 0;
};

TEST_F(HostileAdapters, ConfigurationsThatAreNone) {
  LeavesUnnamed(1);  // what the good one made of it
  const std::string good = ConfigWith({});
  std::string utf16 = "\xff\xfe";
  for (const char c : good) (utf16 += c) += '\0';
  const auto deep = [](int levels) {
    return ConfigWith({{"x", std::string(levels, '[') + std::string(levels, ']')}});
  };
  const std::vector<std::pair<std::string, std::string>> texts = {
      {"", "is empty"},
      {"{", "not valid JSON"},
      {"[]", "not a JSON object"},
      {"null", "not a JSON object"},
      {"hello", "not valid JSON"},
      {utf16, "not UTF-8"},
      {deep(100'000), "nested deeper"},  // as large as is read
      {deep(1'000'000), "bytes, at most"},
      {"{\"peft_type\":\"LORA\",\"r\":4,\"r\":4}", "'r' appears twice"},
      {ConfigWith({{"lora_alpha", "NaN"}}), "not valid JSON"},
      {ConfigWith({{"lora_alpha", "Infinity"}}), "not valid JSON"},
      {"\xef\xbb\xbf" + good, "byte order mark"},
      {good + good, "not valid JSON"}};
  for (const auto& [text, word] : texts) {
    SCOPED_TRACE(text.substr(0, 40));
    ExpectRefused(StatusOfConfig(text), word);
  }
  EXPECT_EQ(CodeOfConfig(deep(10)), StatusCode::OK) << "a field that nobody knows";
  ASSERT_EQ(CodeOfConfig(good), StatusCode::OK);
  ASSERT_EQ(truncate(Path("adapter_config.json").c_str(), int64_t{1} << 30), 0);
  ExpectRefused(Ask(), "bytes, at most");
}

TEST_F(HostileAdapters, MethodsThatAreNotLora) {
  const std::vector<std::pair<std::string, std::string>> types = {
      {"", "peft_type is missing: only LORA adapters are served"},
      {"null", "peft_type is missing: only LORA adapters are served"},
      {"\"IA3\"", "peft_type 'IA3' is not supported: only LORA is served"},
      {"\"XLORA\"", "peft_type 'XLORA' is not supported: only LORA is served"},
      {"5", "peft_type 5 is not supported: only LORA is served"},
      {"\"lora\"", "peft_type 'lora' is not supported: only LORA is served"}};
  for (const auto& [type, text] : types) {
    ExpectRefused(StatusOfConfig(ConfigWith({{"peft_type", type}})), text);
  }
  ExpectRefused(StatusOfConfig(ConfigWith({{"r", ""}})), "r (the rank) is missing");
}

TEST_F(HostileAdapters, RanksThatAreNone) {
  // What the tensors have is in the pattern, so nothing but r itself can be refused.
  const auto with_rank = [](const char* rank) {
    return ConfigWith({{"r", rank}, {"rank_pattern", "{\"q_proj\":4}"}});
  };
  for (const char* rank :
       {"0", "-8", "8.5", "\"8\"", "1000000000", "9223372036854775808", "true", "257"}) {
    SCOPED_TRACE(rank);
    ExpectRefused(StatusOfConfig(with_rank(rank)), "expected a whole number from 1 to 256");
  }
  for (const char* rank : {"1", "8", "256"}) {
    EXPECT_EQ(CodeOfConfig(with_rank(rank)), StatusCode::OK) << rank;
  }
  EXPECT_EQ(CodeOfField("r", "8"), kNotServable) << "the tensors say 4";
  constexpr int kValues = 48;
  const std::string values = "base_model.model.model.layers.0.self_attn.v_proj.";
  std::vector<TensorToWrite> tensors = Pair();
  tensors.push_back(Floats(values + "lora_A.weight", {2 * kRank, kHidden}));
  tensors.push_back(Floats(values + "lora_B.weight", {kValues, 2 * kRank}));
  EXPECT_EQ(CodeOfTensors(tensors), kNotServable) << "another rank in one module";
  EXPECT_EQ(CodeOfTensors(tensors, {{"rank_pattern", "{\"v_proj\":8}"}}), StatusCode::OK);
}

TEST_F(HostileAdapters, PatternsTakeBoundedTime) {
  std::vector<std::string> many;
  for (int i = 0; i < 1'000'000; ++i) many.push_back(absl::StrCat("\"layer", i, "\":4"));
  const std::string file = absl::StrCat("{", absl::StrJoin(many, ","), "}");
  many.resize(30'000);  // what a configuration's bytes allow
  const std::string table = absl::StrCat("{", absl::StrJoin(many, ","), "}");
  for (const std::string& pattern :
       {std::string("{\"(\":4}"), std::string("{\"[\":4}"), std::string("{\"(?P<x>a)\\\\1\":4}"),
        std::string("{\"x{1000}{1000}\":4}"), table, file, std::string("{\"q_proj\":\"x\"}"),
        std::string("[]")}) {
    for (const char* field : {"rank_pattern", "alpha_pattern"}) {
      EXPECT_EQ(CodeOfField(field, pattern), kNotServable) << field << pattern.substr(0, 40);
    }
  }
  EXPECT_EQ(CodeOfField("rank_pattern", "{\"q_proj\":0}"), kNotServable);
  EXPECT_EQ(CodeOfField("alpha_pattern", "{\"(a*)*b\":8}"), StatusCode::OK);
  EXPECT_EQ(CodeOfField("rank_pattern", "{\"(a*)*b\":8}"), StatusCode::OK) << "matches nothing";
  EXPECT_EQ(CodeOfField("rank_pattern", "{\"q_proj\":4,\".*\":8}"), StatusCode::OK)
      << "the first that matches counts";
  EXPECT_EQ(CodeOfField("rank_pattern", "{\".*\":8,\"q_proj\":4}"), kNotServable);
}

TEST_F(HostileAdapters, AnyFiniteAlphaIsDefined) {
  EXPECT_EQ(CodeOfField("lora_alpha", "0"), StatusCode::OK);
  EXPECT_EQ(CodeOfField("lora_alpha", "-16"), StatusCode::OK);
  for (const char* alpha : {"1e999", "NaN", "\"x\"", "null", "[8]"}) {
    EXPECT_EQ(CodeOfField("lora_alpha", alpha), kNotServable) << alpha;
  }
  // Finite in the file, and more than numbers of the device hold.
  EXPECT_EQ(CodeOfField("lora_alpha", "1e308"), kNotServable);
}

// Row 53: alpha over the root of the rank. Powers of two, so that equal scales give equal bits.
TEST_F(HostileAdapters, RankStabilisedScalesAreThoseOfTheirRoot) {
  const auto tokens_of = [this](const Fields& change) {
    EXPECT_EQ(CodeOfTensors(Pair(1.0f), change), StatusCode::OK);
    return tokens();
  };
  const Fields stabilised = {{"use_rslora", "true"}};
  EXPECT_EQ(tokens_of(stabilised), tokens_of({{"lora_alpha", "16"}}));
  Fields with_pattern = stabilised;
  with_pattern["alpha_pattern"] = "{\"q_proj\":32}";
  EXPECT_EQ(tokens_of(with_pattern), tokens_of({{"lora_alpha", "64"}}));
}

TEST_F(HostileAdapters, DoraIsWholeOrRefused) {
  const std::string magnitude = absl::StrCat(kStem, "lora_magnitude_vector");
  const Fields dora = {{"use_dora", "true"}};
  std::vector<TensorToWrite> tensors = Pair();
  EXPECT_EQ(CodeOfTensors(tensors, dora), kNotServable) << "no magnitude";
  tensors.push_back(Floats(magnitude, {kQueries}, 1.0f));
  EXPECT_EQ(CodeOfTensors(tensors, dora), StatusCode::OK);
  EXPECT_EQ(CodeOfTensors(tensors), kNotServable) << "a magnitude without use_dora";
  tensors.back() = Floats(magnitude, {kQueries - 1}, 1.0f);
  EXPECT_EQ(CodeOfTensors(tensors, dora), kNotServable) << "of another length";
}

TEST_F(HostileAdapters, BasesThatWereChanged) {
  for (const char* init :
       {"\"pissa\"", "\"pissa_niter_4\"", "\"olora\"", "\"corda\"", "\"lora_ga\""}) {
    EXPECT_EQ(CodeOfField("init_lora_weights", init), kNotServable) << init;
  }
  EXPECT_EQ(CodeOfField("init_lora_weights", "\"loftq\""), StatusCode::OK);
  EXPECT_EQ(CodeOfField("init_lora_weights", "\"gaussian\""), StatusCode::OK);
}

TEST_F(HostileAdapters, WhatIsNotServedHasItsOwnText) {
  const Fields fields = {{"modules_to_save", "[\"lm_head\"]"},
                         {"trainable_token_indices", "[1]"},
                         {"layer_replication", "[[0,1],[0,1]]"},
                         {"target_parameters", "[\"mlp.experts.gate_up_proj\"]"},
                         {"alora_invocation_tokens", "[5]"},
                         {"use_qalora", "true"}};
  std::map<std::string, std::string> texts;
  for (const auto& [name, value] : fields) {
    const grpc::Status status = StatusOf(ConfigWith({{name, value}}), SafetensorsFile(Pair()));
    EXPECT_EQ(status.error_code(), kNotServable) << name;
    EXPECT_THAT(status.error_message(), HasSubstr(name));
    texts[status.error_message().substr(status.error_message().find(':'))] = name;
  }
  EXPECT_EQ(texts.size(), fields.size());
  // Trained biases are tensors; a field that speaks of some without any changes nothing, but for
  // those that must be there.
  EXPECT_EQ(CodeOfField("bias", "\"all\""), StatusCode::OK);
  EXPECT_EQ(CodeOfField("bias", "\"some\""), kNotServable);
  EXPECT_EQ(CodeOfField("lora_bias", "true"), kNotServable);
  std::vector<TensorToWrite> biased = Pair();
  biased.push_back(Floats("base_model.model.model.layers.0.self_attn.q_proj.bias", {kQueries}));
  EXPECT_EQ(CodeOfTensors(biased, {{"bias", "\"all\""}}), kNotServable);
}

TEST_F(HostileAdapters, NamesOfBasesAndClassesMeanNothing) {
  for (const char* base : {"\"meta-llama/Llama-2-70b\"", "null", "\"/etc/passwd\"",
                           "\"https://user:secret@host/x\"", "\"../../x\""}) {
    EXPECT_EQ(CodeOfField("base_model_name_or_path", base), StatusCode::OK) << base;
  }
  EXPECT_EQ(CodeOfField("auto_mapping",
                        "{\"base_model_class\":\"os\",\"parent_library\":\"subprocess\"}"),
            StatusCode::OK);
  // Of another size: its shapes tell.
  EXPECT_EQ(CodeOfTensors({Floats(absl::StrCat(kStem, "lora_A.weight"), {kRank, 2 * kHidden}),
                           Floats(absl::StrCat(kStem, "lora_B.weight"), {kQueries, kRank})}),
            kNotServable);
}

TEST_F(HostileAdapters, TargetModulesAreAWarningAndTheLayoutOfTheBaseIsItsOwn) {
  EXPECT_EQ(CodeOfField("target_modules", "[\"v_proj\"]"), StatusCode::OK);
  EXPECT_EQ(CodeOfField("target_modules", "\"all-linear\""), StatusCode::OK);
  EXPECT_EQ(CodeOfField("fan_in_fan_out", "false"), StatusCode::OK);
  const std::vector<int32_t> plain = tokens();
  EXPECT_EQ(CodeOfField("fan_in_fan_out", "true"), StatusCode::OK);
  EXPECT_EQ(tokens(), plain);
}

TEST_F(HostileAdapters, FilesThatAreTooShort) {
  for (const int bytes : {0, 1, 7, 8, 9}) {
    EXPECT_EQ(CodeOfWeights(std::string(bytes, '\x05')), kNotServable) << bytes;
  }
}

TEST_F(HostileAdapters, HeaderLengthsThatLie) {
  const std::string good = SafetensorsFile(Pair());
  for (const uint64_t length : {uint64_t{0}, uint64_t{1}, UINT64_MAX, uint64_t{good.size() - 7},
                                uint64_t{100'000'001}, uint64_t{1} << 63}) {
    std::string file = good;
    std::memcpy(file.data(), &length, sizeof(length));
    const auto ask = [&] { EXPECT_EQ(CodeOfWeights(file), kNotServable) << length; };
    EXPECT_LT(PeakGrowthBytes(ask), 64 << 20) << length;
  }
}

TEST_F(HostileAdapters, HeadersThatAreNone) {
  const std::string file = SafetensorsFile(Pair());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  const std::string good = file.substr(8, length);
  const std::string data = file.substr(8 + length);
  // With this in the place of the metadata's "format":"pt".
  const auto with = [&good](const std::string& metadata) {
    const std::string format = "\"format\":\"pt\"";
    return std::string(good).replace(good.find(format), format.size(), metadata);
  };
  const std::vector<std::pair<std::string, std::string>> headers = {
      {" " + good, "does not begin"},
      {"[" + good + "]", "does not begin"},
      {"\xef\xbb\xbf" + good, "does not begin"},
      {good + std::string(2, '\0'), "NUL"},
      {good + "x", "does not end"},
      {good + good, "not valid JSON"},
      {with("\"\xff\":\"pt\""), "not valid JSON"},
      {with("\"x\":" + std::string(60'000, '[') + std::string(60'000, ']')), "an array"}};
  for (const auto& [header, word] : headers) {
    SCOPED_TRACE(header.substr(0, 40));
    ExpectRefused(StatusOfWeights(SafetensorsFile(header, data)), word);
  }
  EXPECT_EQ(CodeOfWeights(SafetensorsFile(good + "  ", data)), StatusCode::OK);
  EXPECT_EQ(CodeOfWeights(SafetensorsFile(with("\"x\":\"y\""), data)), StatusCode::OK);
}

TEST_F(HostileAdapters, OffsetsAndShapesThatLie) {
  TakesLongTexts();
  struct Entry {
    std::string dtype = "F32";
    std::string shape;
    std::string offsets;
  };
  const auto text = [](const std::string& name, const Entry& entry) {
    return absl::StrCat("\"", kStem, name, ".weight\":{\"dtype\":\"", entry.dtype,
                        "\",\"shape\":", entry.shape, ",\"data_offsets\":", entry.offsets, "}");
  };
  const auto status_of = [&](const Entry& a, const Entry& b, int64_t data_bytes) {
    return StatusOfWeights(
        SafetensorsFile(absl::StrCat("{", text("lora_A", a), ",", text("lora_B", b), "}"),
                        std::string(data_bytes, '\0')));
  };
  struct Lie {
    Entry a;
    std::string b_offsets;
    int64_t data_bytes;
    std::string word;
  };
  const std::string a_shape = "[4,64]", a_place = "[0,1024]";
  const std::string b_shape = "[96,4]", b_place = "[1024,2560]";
  const std::vector<Lie> lies = {
      {{"F32", a_shape, "[0,2048]"}, "[2048,3584]", 3584, "need 1024 bytes"},
      {{"F32", a_shape, "[1024,0]"}, b_place, 2560, "end before they begin"},
      {{"F32", a_shape, "[8,1032]"}, "[1032,2568]", 2568, "begins at 8, expected 0"},
      {{"F32", a_shape, a_place}, "[1032,2568]", 2568, "begins at 1032, expected 1024"},
      {{"F32", a_shape, a_place}, "[1020,2556]", 2556, "begins at 1020, expected 1024"},
      {{"F32", a_shape, a_place}, "[0,1536]", 1536, "begins at 0, expected 1024"},
      {{"F32", a_shape, a_place}, b_place, 2559, "data ends at 2560"},
      {{"F32", a_shape, a_place}, b_place, 2562, "file has 2562"},
      {{"F32", a_shape, "[-1,1023]"}, b_place, 2560, "negative"},
      {{"F32", "[4294967296,4294967296,4]", a_place}, b_place, 2560, "overflows"},
      {{"F32", "[-4,-64]", a_place}, b_place, 2560, "negative"},
      {{"F32", "[4.0,64]", a_place}, b_place, 2560, "not a 64-bit integer"},
      {{"F32", absl::StrCat("[", std::string(2'000'000, '1'), "]"), a_place},
       b_place,
       2560,
       "not valid JSON"},
      {{"F32", "[4,64,1]", a_place}, b_place, 2560, "lora_A is [4, 64, 1]"},
      {{"F32", "[]", "[0,4]"}, "[4,1540]", 1540, "lora_A is []"},
      {{"Q4", a_shape, a_place}, b_place, 2560, "dtype 'Q4' is unknown"},
      {{"F64", a_shape, "[0,2048]"}, "[2048,3584]", 3584, "has dtype F64"},
      {{"I8", a_shape, "[0,256]"}, "[256,1792]", 1792, "has dtype I8"},
      {{"F8_E4M3", a_shape, "[0,256]"}, "[256,1792]", 1792, "has dtype F8_E4M3"}};
  for (const Lie& lie : lies) {
    ExpectRefused(status_of(lie.a, {"F32", b_shape, lie.b_offsets}, lie.data_bytes), lie.word);
  }
  std::string many_ones = "[4,64";
  for (int i = 0; i < 1'000'000; ++i) many_ones += ",1";
  const Entry b = {"F32", b_shape, b_place};
  ExpectRefused(status_of({"F32", many_ones + "]", a_place}, b, 2560), "more than 8 numbers");
  ExpectRefused(status_of({"F32", "[0,64]", "[0,0]"}, {"F32", "[96,0]", "[0,0]"}, 0), "rank 0");
  EXPECT_TRUE(status_of({"F32", a_shape, a_place}, b, 2560).ok());
  // Two types in one pair are fine.
  std::vector<TensorToWrite> mixed = Pair();
  mixed[1] = {absl::StrCat(kStem, "lora_B.weight"),
              "BF16",
              {kQueries, kRank},
              std::string(kQueries * kRank * 2, '\0')};
  EXPECT_EQ(CodeOfTensors(mixed), StatusCode::OK);
}

TEST_F(HostileAdapters, NamesOfTensors) {
  TakesLongTexts();
  const auto with = [this](const std::string& name) {
    std::vector<TensorToWrite> tensors = Pair();
    tensors.push_back(Floats(name, {kRank, kHidden}));
    return StatusOfWeights(SafetensorsFile(tensors));
  };
  ExpectRefused(with(absl::StrCat(kStem, "lora_A.weight")), "appears twice");
  ExpectRefused(with("model.layers.0.self_attn.q_proj.lora_A.weight"), "the same weights twice");
  ExpectRefused(with("__proto__"), "'__proto__'");
  // In the place of an adapter's own name, which may be any.
  const auto named = [this](const std::string& adapter) {
    std::vector<TensorToWrite> tensors = Pair();
    tensors[0].name = absl::StrCat(kStem, "lora_A.", adapter, ".weight");
    tensors[1].name = absl::StrCat(kStem, "lora_B.", adapter, ".weight");
    return StatusOfWeights(SafetensorsFile(tensors));
  };
  ExpectRefused(named("a\\u0000b"), "control characters");
  const grpc::Status endless = named(std::string(1 << 20, 'n'));
  ExpectRefused(endless, "its name is over");
  EXPECT_LT(endless.error_message().size(), 300u);
  EXPECT_TRUE(named("__proto__").ok());
  // As many as a header has room for, and more.
  for (const auto& [count, word] : std::map<int, std::string>{{250'000, "more than 65536 tensors"},
                                                              {1'000'000, "header length"}}) {
    std::string many = "{";
    for (int i = 0; i < count; ++i) {
      absl::StrAppend(&many, i == 0 ? "" : ",", "\"t", i,
                      "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}");
    }
    const std::string file = SafetensorsFile(many + "}");
    // The best of a few: what else runs on this machine only makes it longer.
    absl::Duration best = absl::InfiniteDuration();
    for (int attempt = 0; attempt < 5 && best >= absl::Seconds(1); ++attempt) {
      const absl::Time begun = absl::Now();
      ExpectRefused(StatusOfWeights(file), word);
      best = std::min(best, absl::Now() - begun);
    }
    EXPECT_LT(best, absl::Seconds(1)) << word;
  }
}

TEST_F(HostileAdapters, VocabulariesOfOtherModels) {
  constexpr int kRows = 272;
  const std::string embedding = "base_model.model.model.embed_tokens.lora_embedding_";
  const std::string head = "base_model.model.lm_head.lora_";
  const auto code = [&](bool of_head, int rows) {
    return of_head ? CodeOfTensors({Floats(head + "A.weight", {kRank, kHidden}),
                                    Floats(head + "B.weight", {rows, kRank})})
                   : CodeOfTensors({Floats(embedding + "A", {kRank, rows}),
                                    Floats(embedding + "B", {kHidden, kRank})});
  };
  for (const bool of_head : {false, true}) {
    for (const int rows : {1, kRows - 1, kRows + 1, 100'000}) {
      EXPECT_EQ(code(of_head, rows), kNotServable) << of_head << " " << rows;
    }
    EXPECT_EQ(code(of_head, kRows), StatusCode::OK) << of_head;
  }
}

TEST_F(HostileAdapters, PairsThatAreNone) {
  const std::vector<TensorToWrite> pair = Pair();
  EXPECT_EQ(CodeOfTensors({pair[0]}), kNotServable);
  EXPECT_EQ(CodeOfTensors({pair[1]}), kNotServable);
  EXPECT_EQ(CodeOfTensors(
                {Floats(pair[1].name, {kRank, kHidden}), Floats(pair[0].name, {kQueries, kRank})}),
            kNotServable)
      << "A and B swapped";
  EXPECT_EQ(CodeOfTensors({Floats("base_model.model.model.layers.0.self_attn.x_proj.lora_A.weight",
                                  {kRank, kHidden}),
                           Floats("base_model.model.model.layers.0.self_attn.x_proj.lora_B.weight",
                                  {kQueries, kRank})}),
            kNotServable)
      << "the base has no such module";
  std::vector<TensorToWrite> foreign = pair;
  for (int i = 0; i < 30; ++i) {
    foreign.push_back(Floats(
        absl::StrCat("base_model.model.model.layers.", 900 + i, ".self_attn.q_proj.lora_A.weight"),
        {kRank, kHidden}));
  }
  const grpc::Status status = StatusOf(ConfigWith({}), SafetensorsFile(foreign));
  EXPECT_EQ(status.error_code(), kNotServable);
  EXPECT_THAT(status.error_message(), HasSubstr("more"));
}

TEST_F(HostileAdapters, NumbersThatAreNone) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(CodeOfTensors(Pair(value)), StatusCode::DATA_LOSS) << value;
  }
  EXPECT_EQ(CodeOfTensors(Pair(1e-42f)), StatusCode::OK) << "denormal";
}

TEST_F(HostileAdapters, ZerosAreTheBase) {
  v1::GenerateRequest request = TokensRequest(8);
  request.set_logprobs(kLogprobs);
  v1::GenerateResponse base;
  ASSERT_TRUE(Generate(request, {}, &base).ok());
  ASSERT_EQ(base.logprobs_size(), 8);
  ASSERT_EQ(CodeOfTensors(Pair(0.0f)), StatusCode::OK);
  EXPECT_EQ(tokens(), std::vector<int32_t>(base.token_ids().begin(), base.token_ids().end()));
  ASSERT_EQ(response_.logprobs_size(), base.logprobs_size());
  for (int i = 0; i < base.logprobs_size(); ++i) {
    EXPECT_EQ(base.logprobs(i).top_size(), kLogprobs);
    EXPECT_EQ(response_.logprobs(i).SerializeAsString(), base.logprobs(i).SerializeAsString()) << i;
  }
}

TEST_F(HostileAdapters, WhatIsNoSafetensorsFile) {
  for (const std::string& bytes :
       {std::string("\x80\x02}q\0", 5) + std::string(100, 'x'),
        "PK\x03\x04" + std::string(100, 'x'), std::string("<!DOCTYPE html><html></html>"),
        std::string("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")}) {
    EXPECT_EQ(CodeOfWeights(bytes), kNotServable) << bytes.substr(0, 10);
  }
  ASSERT_EQ(CodeOfWeights("x"), kNotServable);
  fs::rename(Path("adapter_model.safetensors"), Path("adapter_model.bin"));
  const grpc::Status pickle = Ask();
  EXPECT_EQ(pickle.error_code(), kNotServable);
  EXPECT_THAT(pickle.error_message(), HasSubstr("safetensors"));
}

TEST_F(HostileAdapters, FilesThatAreNoFiles) {
  TemporaryFolder outside;
  outside.Write("weights", SafetensorsFile(Pair()));
  outside.Write("secret", "root:x:0:0:root:/root:/bin/sh");
  int made = 0;
  const auto place = [&](const std::function<void(const std::string&)>& make) {
    name_ = absl::StrCat("file-", ++made);
    Write("adapter_config.json", ConfigWith({}));
    make(Path("adapter_model.safetensors"));
    return Ask();
  };
  for (const std::string& target :
       {outside.path() + "/weights", std::string("/etc/shadow"), std::string("/dev/zero")}) {
    ExpectRefused(place([&](const std::string& path) { fs::create_symlink(target, path); }),
                  "leads out of the adapters folder");
  }
  ExpectRefused(place([](const std::string& path) { ASSERT_EQ(mkfifo(path.c_str(), 0644), 0); }),
                "not a regular file");
  ExpectRefused(place([](const std::string& path) { fs::create_directory(path); }),
                "not a regular file");
  // A hard link is the file, and lies where the others lie: what it holds decides, and none of it
  // is shown.
  const auto linked = [&](const std::string& name) {
    return place([&](const std::string& path) {
      fs::create_hard_link(absl::StrCat(outside.path(), "/", name), path);
    });
  };
  EXPECT_TRUE(linked("weights").ok());
  const grpc::Status secret = linked("secret");
  ExpectRefused(secret, "safetensors header length");
  EXPECT_THAT(secret.error_message(), Not(HasSubstr("root")));
  // A tebibyte without one block on the disk.
  ExpectRefused(place([](const std::string& path) {
                  std::ofstream(path) << std::string(8, '\0');
                  ASSERT_EQ(truncate(path.c_str(), int64_t{1} << 40), 0);
                }),
                "bytes, at most");
}

// Row 73: the file is cut and grows again while calls read it.
TEST_F(HostileAdapters, AFileThatChangesWhileItIsReadIsWholeOrRefused) {
  AnswersWithin(kFetchedAnswerMax);
  const std::string whole = SafetensorsFile(Pair());
  ASSERT_EQ(CodeOfWeights(whole), StatusCode::OK);
  const std::vector<int32_t> right = tokens();
  const std::string path = Path("adapter_model.safetensors");
  std::atomic<bool> stop = false;
  std::thread meddler([&] {
    for (int i = 0; !stop; ++i) {
      fs::resize_file(path, i % 2 == 0 ? whole.size() / 2 : whole.size() + 100);
      std::ofstream(path) << whole;
    }
  });
  for (int i = 0; i < 30; ++i) {
    const grpc::Status status = Ask();
    EXPECT_THAT(status.error_code(), AnyOf(Eq(StatusCode::OK), Eq(kNotServable),
                                           Eq(StatusCode::DATA_LOSS), Eq(StatusCode::UNAVAILABLE)))
        << status.error_message();
    if (status.ok()) {
      EXPECT_EQ(tokens(), right);
    }
  }
  stop = true;
  meddler.join();
  EXPECT_EQ(CodeOfWeights(whole), StatusCode::OK) << "under a name that nothing is remembered of";
  EXPECT_EQ(tokens(), right);
}

}  // namespace
}  // namespace lorica
