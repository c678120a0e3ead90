#include "client/commands/request_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

TEST(ParseMix, ReadsNamesAndWeights) {
  auto mix = ParseMix("a=0.7, b=-1.5,c");
  ASSERT_TRUE(mix.ok()) << mix.status();
  ASSERT_EQ(mix->size(), 3);
  EXPECT_EQ((*mix)[0].adapter_id(), "a");
  EXPECT_EQ((*mix)[0].weight(), 0.7);
  EXPECT_EQ((*mix)[1].adapter_id(), "b");
  EXPECT_EQ((*mix)[1].weight(), -1.5);
  EXPECT_EQ((*mix)[2].adapter_id(), "c");
  EXPECT_FALSE((*mix)[2].has_weight());
}

TEST(ParseMix, ShowsTheFormWhenItIsWrong) {
  for (const char* text : {"", "a,", "=0.5", "a=", "a=x", "a=0.5,,b=1"}) {
    auto mix = ParseMix(text);
    ASSERT_FALSE(mix.ok()) << text;
    EXPECT_THAT(std::string(mix.status().message()), HasSubstr("NAME=WEIGHT such as a=0.7,b=0.3"));
  }
}

TEST(ParseLogitBias, ReadsIdAndBias) {
  auto bias = ParseLogitBias("50=-100");
  ASSERT_TRUE(bias.ok());
  EXPECT_EQ(bias->token_id(), 50);
  EXPECT_EQ(bias->bias(), -100);
  EXPECT_FALSE(ParseLogitBias("50").ok());
  EXPECT_FALSE(ParseLogitBias("a=1").ok());
}

TEST(ParseTokenIds, ReadsAList) {
  EXPECT_EQ(*ParseTokenIds("1,0, 49151"), (std::vector<int32_t>{1, 0, 49151}));
  EXPECT_FALSE(ParseTokenIds("1,,2").ok());
  EXPECT_FALSE(ParseTokenIds("1.5").ok());
}

TEST(RequestFlags, SetOnlyWhatWasGiven) {
  CLI::App app;
  RequestFlags flags;
  AddRequestFlags(&app, &flags);
  app.parse(
      "--adapter a -n 5 --temperature 0 --presence-penalty -0.5 --seed "
      "18446744073709551615 --stop x --stop y --logit-bias 3=-1");
  auto request = RequestFromFlags(flags);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->adapter_id(), "a");
  EXPECT_EQ(request->max_tokens(), 5);
  EXPECT_TRUE(request->has_temperature());
  EXPECT_FALSE(request->has_top_p());
  EXPECT_EQ(request->presence_penalty(), -0.5);
  EXPECT_EQ(request->seed(), 18446744073709551615u);
  EXPECT_EQ(request->stop_size(), 2);
  EXPECT_EQ(request->logit_bias(0).bias(), -1);
  EXPECT_FALSE(request->has_skip_special_tokens());
}

v1::ResponseFormat FormatOf(const std::string& command_line) {
  CLI::App app;
  RequestFlags flags;
  AddRequestFlags(&app, &flags);
  app.parse(command_line);
  auto request = RequestFromFlags(flags);
  EXPECT_TRUE(request.ok()) << request.status();
  return request->response_format();
}

TEST(RequestFlags, TheFormOfTheAnswerComesFromAFileOrTheCommandLine) {
  const TemporaryFolder folder;
  folder.Write("schema.json", "{\"type\": \"null\"}\n");
  folder.Write("empty.json", "");
  EXPECT_EQ(FormatOf("--json-schema " + folder.path() + "/schema.json").json_schema(),
            "{\"type\": \"null\"}\n");
  EXPECT_EQ(FormatOf("--ebnf " + folder.path() + "/schema.json").ebnf(), "{\"type\": \"null\"}\n");
  EXPECT_EQ(FormatOf("--regex yes|no").regex(), "yes|no");
  EXPECT_TRUE(FormatOf("--json-object").has_json_object());
  EXPECT_EQ(FormatOf("-n 5").form_case(), v1::ResponseFormat::FORM_NOT_SET);
  EXPECT_THROW(FormatOf("--regex a --json-object"), CLI::ParseError);
  EXPECT_THROW(FormatOf("--json-schema " + folder.path() + "/missing.json"), CLI::ParseError);
  RequestFlags flags;
  flags.json_schema = folder.path() + "/empty.json";
  EXPECT_TRUE(absl::IsInvalidArgument(RequestFromFlags(flags).status()));
}

TEST(RequestFlags, AFormsFileIsReadToTheLimitAndNoFurther) {
  const TemporaryFolder folder;
  folder.Write("largest", std::string(kFormatFileBytesMax, 'a'));
  folder.Write("larger", std::string(kFormatFileBytesMax + 1, 'a'));
  EXPECT_TRUE(ReadFormatFile(folder.path() + "/largest").ok());
  for (const std::string& name : {folder.path() + "/larger", std::string("/dev/zero")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ReadFormatFile(name).status())) << name;
  }
}

TEST(RequestFlags, AdapterAndMixExcludeEachOther) {
  CLI::App app;
  RequestFlags flags;
  AddRequestFlags(&app, &flags);
  EXPECT_THROW(app.parse("--adapter a --mix b=1"), CLI::ParseError);
}

}  // namespace
}  // namespace lorica
