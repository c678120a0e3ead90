#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/adapter.h"
#include "adapters/module_pattern.h"
#include "tests/fakes/cpu_timer.h"

namespace lorica {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

// A good configuration with more fields.
std::string With(const std::string& fields) {
  return absl::StrCat(R"({"peft_type":"LORA","r":8)", fields.empty() ? "" : ",", fields, "}");
}

absl::Status StatusOf(const std::string& json) { return ParseAdapterConfig(json).status(); }

void ExpectRefused(const std::string& json, const std::string& reason) {
  const absl::Status status = StatusOf(json);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << json.substr(0, 200) << " " << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("adapter_config.json: "), HasSubstr(reason)));
}

void ExpectWarning(const std::string& fields, const std::string& text) {
  const auto config = ParseAdapterConfig(With(fields));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->warnings, ElementsAre(HasSubstr(text)));
}

void ExpectIgnored(const std::string& fields) {
  const auto config = ParseAdapterConfig(With(fields));
  ASSERT_TRUE(config.ok()) << fields << config.status();
  EXPECT_THAT(config->warnings, IsEmpty()) << fields;
}

TEST(AdapterConfigTest, ReadsWhatChangesTheMathematics) {
  const auto config = ParseAdapterConfig(
      R"({"peft_type":"LORA","r":16,"lora_alpha":32.5,"use_rslora":true,"use_dora":true,
          "rank_pattern":{"z_proj":4,"a_proj":12},"alpha_pattern":{"q":1,"b":2.5},
          "target_modules":["q_proj"],"base_model_name_or_path":"some/model"})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rank, 16);
  EXPECT_EQ(config->alpha, 32.5);
  EXPECT_TRUE(config->use_rslora);
  EXPECT_TRUE(config->use_dora);
  EXPECT_THAT(config->rank_pattern, ElementsAre(Pair("z_proj", 4), Pair("a_proj", 12)));
  EXPECT_THAT(config->alpha_pattern, ElementsAre(Pair("q", 1.0), Pair("b", 2.5)));
  EXPECT_THAT(config->target_modules, ElementsAre("q_proj"));
  EXPECT_EQ(config->base_model, "some/model");
  EXPECT_THAT(config->warnings, IsEmpty());
}

TEST(AdapterConfigTest, HasPeftsDefaults) {
  const auto config = ParseAdapterConfig(With(""));
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->alpha, 8.0);
  EXPECT_FALSE(config->use_rslora);
  EXPECT_FALSE(config->use_dora);
}

TEST(AdapterConfigTest, RefusesTextThatIsNotOneObject) {
  ExpectRefused("", "is empty");
  ExpectRefused("not json", "not valid JSON");
  ExpectRefused("[]", "not a JSON object");
  ExpectRefused("null", "not a JSON object");
  ExpectRefused(With("") + "x", "not valid JSON");
  ExpectRefused(R"({"peft_type":"LORA","r":8,"r":8})", "'r' appears twice");
  ExpectRefused(With(R"("rank_pattern":{"a":1,"a":2})"), "'a' appears twice");
  ExpectRefused(With(R"("lora_alpha":NaN)"), "not valid JSON");
  ExpectRefused(With(R"("lora_alpha":Infinity)"), "not valid JSON");
  ExpectRefused(With(R"("lora_alpha":1e999)"), "a number too large for a double");
  ExpectRefused("\xEF\xBB\xBF" + With(""), "byte order mark");
  ExpectRefused(std::string("{\0\"\0r\0", 6), "not UTF-8");
  ExpectRefused(With("\"x\":\"\xff\""), "not valid JSON");
}

TEST(AdapterConfigTest, BoundsDepthKeysAndSize) {
  const auto nested = [](int depth) {
    return With("\"x\":" + std::string(depth, '[') + std::string(depth, ']'));
  };
  EXPECT_TRUE(StatusOf(nested(31)).ok());
  ExpectRefused(nested(32), "nested deeper than 32");
  ExpectRefused(nested(400'000), "nested deeper than 32");
  std::string padded = With("");
  padded.resize(kAdapterConfigBytesMax, ' ');
  EXPECT_TRUE(StatusOf(padded).ok());
  ExpectRefused(padded + ' ', "at most 1048576");
}

TEST(AdapterConfigTest, WantsPeftTypeLora) {
  ExpectRefused(R"({"r":8})", "peft_type is missing: only LORA adapters are served");
  ExpectRefused(R"({"r":8,"peft_type":null})",
                "peft_type is missing: only LORA adapters are served");
  ExpectRefused(R"({"r":8,"peft_type":"IA3"})",
                "peft_type 'IA3' is not supported: only LORA is served");
  ExpectRefused(R"({"r":8,"peft_type":"XLORA"})",
                "peft_type 'XLORA' is not supported: only LORA is served");
  ExpectRefused(R"({"r":8,"peft_type":5})", "peft_type 5 is not supported: only LORA is served");
}

TEST(AdapterConfigTest, ChecksTaskType) {
  ExpectIgnored(R"("task_type":"CAUSAL_LM")");
  ExpectIgnored(R"("task_type":null)");
  ExpectWarning(R"("task_type":"SEQ_CLS")", "served as a text generator");
  ExpectRefused(With(R"("task_type":"CHESS")"), "task_type 'CHESS' is unknown");
}

TEST(AdapterConfigTest, BoundsTheRank) {
  ExpectRefused(R"({"peft_type":"LORA"})", "r (the rank) is missing");
  for (const char* r : {"0", "-8", "8.5", "8.0", "\"8\"", "1000000000", "9223372036854775808",
                        "null", "true", "[8]", "257"}) {
    ExpectRefused(absl::StrCat(R"({"peft_type":"LORA","r":)", r, "}"), "from 1 to 256");
  }
  for (const char* r : {"1", "256"}) {
    EXPECT_TRUE(StatusOf(absl::StrCat(R"({"peft_type":"LORA","r":)", r, "}")).ok());
  }
}

TEST(AdapterConfigTest, TakesAnyFiniteAlpha) {
  ExpectIgnored(R"("lora_alpha":1e308)");
  ExpectWarning(R"("lora_alpha":0)", "no effect");
  ExpectWarning(R"("lora_alpha":-16)", "negative");
  ExpectRefused(With(R"("lora_alpha":"x")"), "lora_alpha is 'x', expected a number");
  ExpectRefused(With(R"("lora_alpha":true)"), "expected a number");
  ExpectRefused(With(R"("lora_alpha":null)"), "expected a number");
}

TEST(AdapterConfigTest, ChecksFlags) {
  ExpectIgnored(R"("use_dora":null,"use_rslora":false)");
  ExpectRefused(With(R"("use_dora":1)"), "use_dora is 1, expected true or false");
  ExpectRefused(With(R"("use_rslora":"yes")"), "use_rslora is 'yes'");
}

TEST(AdapterConfigTest, RefusesEachUnsupportedFieldWithItsOwnText) {
  ExpectRefused(With(R"("bias":"some")"), "bias 'some' is unknown");
  ExpectRefused(With(R"("lora_bias":true,"use_dora":true)"), "use_dora together with lora_bias");
  ExpectRefused(With(R"("modules_to_save":["lm_head"])"), "modules_to_save is not supported");
  ExpectRefused(With(R"("trainable_token_indices":[1])"), "trainable_token_indices is not");
  ExpectRefused(With(R"("trainable_token_indices":{"embed_tokens":[1]})"), "trainable_token");
  ExpectRefused(With(R"("layer_replication":[[0,4],[2,5]])"), "layer_replication is not");
  ExpectRefused(With(R"("target_parameters":["mlp.experts.gate_up_proj"])"), "target_parameters");
  ExpectRefused(With(R"("target_parameters":"mlp.experts")"), "target_parameters is not supported");
  ExpectRefused(With(R"("alora_invocation_tokens":[1,2])"), "alora_invocation_tokens is not");
  ExpectRefused(With(R"("use_qalora":true)"), "use_qalora is not supported");
  ExpectRefused(With(R"("use_bdlora":{"nblocks":4})"), "use_bdlora is not supported");
  ExpectRefused(With(R"("arrow_config":{"top_k":3})"), "arrow_config is not supported");
  ExpectRefused(With(R"("kasa_config":{"beta":1})"), "kasa_config is not supported");
}

TEST(AdapterConfigTest, TakesTheirUnusedForms) {
  ExpectIgnored(
      R"("bias":"none","lora_bias":false,"modules_to_save":null,"layer_replication":null)");
  ExpectIgnored(
      R"("modules_to_save":[],"use_qalora":false,"qalora_group_size":16,"kasa_config":{})");
}

TEST(AdapterConfigTest, RefusesInitialisationsThatChangeTheBase) {
  for (const char* init : {"pissa", "pissa_niter_16", "PiSSA", "olora", "corda", "lora_ga"}) {
    ExpectRefused(With(absl::StrCat(R"("init_lora_weights":")", init, "\"")), "modified base");
  }
  for (const char* init :
       {"true", "false", "null", "\"gaussian\"", "\"eva\"", "\"orthogonal\"", "\"mica\""}) {
    ExpectIgnored(absl::StrCat(R"("init_lora_weights":)", init));
  }
  ExpectWarning(R"("init_lora_weights":"loftq")", "quantised base");
  ExpectRefused(With(R"("init_lora_weights":"magic")"), "'magic' is unknown");
  ExpectRefused(With(R"("init_lora_weights":3)"), "init_lora_weights is 3");
}

TEST(AdapterConfigTest, RefusesCombinationsThatPeftNeverWrites) {
  ExpectRefused(With(R"("target_modules":".*q_proj","layers_to_transform":[1])"), "is a pattern");
  ExpectRefused(With(R"("target_modules":".*q_proj","layers_pattern":"layers")"), "is a pattern");
  ExpectRefused(With(R"("layers_pattern":["layers"])"), "without layers_to_transform");
  ExpectRefused(With(R"("use_dora":true,"megatron_config":{"a":1})"), "megatron_config");
}

TEST(AdapterConfigTest, IgnoresWhatOnlyTrainingUses) {
  ExpectIgnored(
      R"("lora_dropout":0.1,"inference_mode":true,"revision":null,"peft_version":"0.21.0")");
  ExpectIgnored(R"("target_modules":"all-linear","exclude_modules":null,"runtime_config":{})");
  ExpectIgnored(R"("auto_mapping":{"base_model_class":"os.system","parent_library":"evil"})");
  ExpectIgnored(R"("fan_in_fan_out":true,"megatron_core":"megatron.core","megatron_config":null)");
  ExpectIgnored(
      R"("loftq_config":{},"eva_config":{"rho":2},"corda_config":{},"ensure_weight_tying":true)");
  ExpectIgnored(R"("layers_to_transform":[1,2],"layers_pattern":"layers","velora_config":{"x":1})");
  ExpectIgnored(R"("base_model_name_or_path":"/home/me/secret/../model")");
  ExpectIgnored(R"("base_model_name_or_path":null)");
}

TEST(AdapterConfigTest, LayersToTransformAreOneNumberOrMany) {
  const auto layers = [](const char* value) {
    auto config = ParseAdapterConfig(With(absl::StrCat(R"("layers_to_transform":)", value)));
    EXPECT_TRUE(config.ok()) << config.status();
    return config->layers_to_transform;
  };
  EXPECT_EQ(layers("null"), std::vector<int>());
  EXPECT_EQ(layers("[]"), std::vector<int>());
  EXPECT_EQ(layers("3"), std::vector<int>{3});
  EXPECT_EQ(layers("[0,29]"), (std::vector<int>{0, 29}));
  for (const char* wrong : {"\"all\"", "[-1]", "[0.5]", "[4294967296]", "{}"}) {
    ExpectRefused(With(absl::StrCat(R"("layers_to_transform":)", wrong)), "layers_to_transform");
  }
}

TEST(AdapterConfigTest, WarnsAboutUnknownFieldsAndNamesAFew) {
  ExpectWarning(R"("brand_new":1)", "unknown fields are ignored: 'brand_new'");
  std::vector<std::string> fields;
  for (int i = 0; i < 12; ++i) fields.push_back(absl::StrCat("\"new", i, "\":1"));
  ExpectWarning(absl::StrJoin(fields, ","), "'new9' and 2 more");
}

TEST(AdapterConfigTest, ChecksPatternTables) {
  ExpectRefused(With(R"("rank_pattern":[4])"), "rank_pattern is not an object");
  ExpectRefused(With(R"("rank_pattern":{"q":0})"), "rank_pattern 'q' is 0");
  ExpectRefused(With(R"("rank_pattern":{"q":4.5})"), "rank_pattern 'q' is 4.5");
  ExpectRefused(With(R"("alpha_pattern":{"q":"4"})"), "alpha_pattern 'q' is '4'");
  ExpectRefused(With(R"("rank_pattern":{"(q":4})"), "key '(q' is not a usable pattern");
  ExpectRefused(With(R"x("alpha_pattern":{"(?=q)":4})x"), "is not a usable pattern");
  ExpectRefused(With(R"("rank_pattern":{"((a{100}){100}){100}":4})"), "is not a usable pattern");
  const auto keyed = [](int bytes) {
    return With(absl::StrCat(R"("rank_pattern":{")", std::string(bytes, 'a'), "\":4}"));
  };
  EXPECT_TRUE(StatusOf(keyed(kPatternBytesMax)).ok()) << StatusOf(keyed(kPatternBytesMax));
  ExpectRefused(keyed(kPatternBytesMax + 1), "is over 1024 bytes");
}

std::string ManyPatterns(int count) {
  std::vector<std::string> entries;
  for (int i = 0; i < count; ++i) entries.push_back(absl::StrCat("\"x", i, "\":4"));
  return With(absl::StrCat("\"rank_pattern\":{", absl::StrJoin(entries, ","), "}"));
}

TEST(AdapterConfigTest, BoundsTheNumberOfPatterns) {
  EXPECT_TRUE(StatusOf(ManyPatterns(kPatternEntriesMax)).ok());
  ExpectRefused(ManyPatterns(kPatternEntriesMax + 1), "over 4096 entries");
  const CpuTimer timer;
  ExpectRefused(ManyPatterns(80'000), "keys");
  EXPECT_LT(timer.seconds(), 1.0);
}

using Ranks = std::vector<std::pair<std::string, int>>;

int RankOf(const Ranks& entries, const std::string& module) {
  const auto table = PatternTable<int>::Compile("rank_pattern", entries);
  EXPECT_TRUE(table.ok()) << table.status();
  const int* found = table->Find(module);
  return found == nullptr ? 0 : *found;
}

// A key whose program is as large: one instruction a letter, and some for what every key is in.
std::string KeyOfProgram(int size) {
  constexpr int kAround = 15;
  const int letters = size - kAround;
  return absl::StrCat("(abcd){", letters / 4, "}", std::string(letters % 4, 'x'));
}

absl::Status StatusOf(const Ranks& entries) {
  return PatternTable<int>::Compile("rank_pattern", entries).status();
}

TEST(ModulePatternTest, BoundsTheProgramOfAKey) {
  constexpr int kProgram = 4000;
  EXPECT_TRUE(StatusOf({{KeyOfProgram(kProgram), 4}}).ok());
  const absl::Status beyond = StatusOf({{KeyOfProgram(kProgram + 1), 4}});
  EXPECT_TRUE(absl::IsFailedPrecondition(beyond)) << beyond;
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("rank_pattern key '(abcd){996}xx' is too"
                                                       " complex"));
}

TEST(ModulePatternTest, BoundsTheProgramsOfATable) {
  constexpr int kPrograms = 262'144, kOne = 4000;
  Ranks entries(kPrograms / kOne, {KeyOfProgram(kOne), 4});
  const int rest = kPrograms % kOne;
  entries.emplace_back(KeyOfProgram(rest), 4);
  EXPECT_TRUE(StatusOf(entries).ok());
  entries.back().first = KeyOfProgram(rest + 1);
  const absl::Status beyond = StatusOf(entries);
  EXPECT_TRUE(absl::IsFailedPrecondition(beyond)) << beyond;
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("the patterns of rank_pattern are too"
                                                       " complex"));
}

TEST(ModulePatternTest, MatchesWholeNamesOrWhatFollowsADot) {
  const std::string name = "model.layers.10.self_attn.q_proj";
  EXPECT_EQ(RankOf({{"q_proj", 4}}, name), 4);
  EXPECT_EQ(RankOf({{"self_attn.q_proj", 4}}, name), 4);
  EXPECT_EQ(RankOf({{name, 4}}, name), 4);
  EXPECT_EQ(RankOf({{".*q_proj", 4}}, name), 4);
  EXPECT_EQ(RankOf({{"q_proj|k_proj", 4}}, name), 4);
  EXPECT_EQ(RankOf({{"layers.(1|10)\\..*", 4}}, name), 4);
  EXPECT_EQ(RankOf({{"proj", 4}}, name), 0);
  EXPECT_EQ(RankOf({{"self_attn", 4}}, name), 0);
  EXPECT_EQ(RankOf({{"0.self_attn.q_proj", 4}}, name), 0);
  EXPECT_EQ(RankOf({{"model.layers.1", 4}}, name), 0);
}

TEST(ModulePatternTest, FirstMatchInFileOrderWins) {
  const std::string name = "model.layers.0.mlp.up_proj";
  EXPECT_EQ(RankOf({{"up_proj", 4}, {"mlp.up_proj", 8}}, name), 4);
  EXPECT_EQ(RankOf({{"mlp.up_proj", 8}, {"up_proj", 4}}, name), 8);
  EXPECT_EQ(RankOf({{"q_proj", 2}, {"zzz", 3}, {".*", 8}, {"up_proj", 4}}, name), 8);
}

TEST(ModulePatternTest, ReadsThePatternAsPeftWritesItInParentheses) {
  EXPECT_EQ(RankOf({{"a)(b", 4}}, "ab"), 4);
  EXPECT_EQ(RankOf({{"", 4}}, "x."), 4);
}

TEST(ModulePatternTest, TakesLinearTimeOnHostilePatterns) {
  const CpuTimer timer;
  EXPECT_EQ(RankOf({{"(a*)*b", 4}}, std::string(500, 'a')), 0);
  EXPECT_EQ(RankOf({{"(a|aa)+$", 4}}, std::string(500, 'a') + "!"), 0);
  EXPECT_LT(timer.seconds(), 0.5);
}

// The dearest table that is accepted, looked up for every module of a large model.
TEST(ModulePatternTest, TheWorstAcceptedTableStaysAffordable) {
  Ranks entries;
  for (int i = 0; i < 1000; ++i) entries.push_back({absl::StrCat("(.*a|.*b)*[ab]{40}x", i), 4});
  auto table = PatternTable<int>::Compile("rank_pattern", entries);
  while (!table.ok()) {
    entries.resize(entries.size() * 9 / 10);
    table = PatternTable<int>::Compile("rank_pattern", entries);
  }
  const CpuTimer timer;
  for (int layer = 0; layer < 126; ++layer) {
    for (int module = 0; module < 7; ++module) {
      EXPECT_EQ(table->Find(absl::StrCat("model.layers.", layer, ".mlp.up_proj", module)), nullptr);
    }
  }
  EXPECT_LT(timer.seconds(), 5.0);
}

}  // namespace
}  // namespace lorica
