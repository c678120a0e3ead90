#include "server/config.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

ParsedFlags Parse(std::vector<std::string> more) {
  std::vector<std::string> arguments = {"--model", "m.gguf"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return ParseFlags(arguments);
}

TEST(Config, DefaultsAreAServerOnLoopback) {
  const ParsedFlags flags = Parse({});
  ASSERT_TRUE(flags.config) << flags.text;
  EXPECT_EQ(flags.config->model, "m.gguf");
  EXPECT_EQ(flags.config->grpc_address, "127.0.0.1:50051");
  EXPECT_EQ(flags.config->arena_bytes, int64_t{1} << 30);
  EXPECT_TRUE(flags.config->reflection);
}

TEST(Config, SizesTakeUnits) {
  EXPECT_EQ(*ParseBytes("512MiB"), int64_t{512} << 20);
  EXPECT_EQ(*ParseBytes("2GiB"), int64_t{2} << 30);
  EXPECT_EQ(*ParseBytes("65536"), 65536);
  for (const char* wrong : {"", "MiB", "-1", "+1", "1.5GiB", "2 GiB", "2gb",
                            "9223372036854775807KiB", "99999999999999999999", "0x10"}) {
    EXPECT_FALSE(ParseBytes(wrong).ok()) << wrong;
  }
  EXPECT_EQ(Parse({"--arena-bytes", "512MiB"}).config->arena_bytes, int64_t{512} << 20);
}

TEST(Config, EachNumberHasBounds) {
  const struct {
    const char* flag;
    int64_t low;
    int64_t high;
  } bounds[] = {{"--threads", 0, 256},
                {"--context-tokens", 0, kContextTokensMax},
                {"--queue-requests", 1, 1'000'000},
                {"--loader-threads", 1, 64},
                {"--drain-seconds", 0, 3600},
                {"--drain-notice-seconds", 0, 600},
                {"--arena-bytes", 1 << 14, int64_t{1} << 46},
                {"--host-bytes", 0, int64_t{1} << 46}};
  for (const auto& bound : bounds) {
    for (const int64_t good : {bound.low, bound.high}) {
      EXPECT_TRUE(Parse({bound.flag, std::to_string(good)}).config) << bound.flag << good;
    }
    for (const int64_t bad : {bound.low - 1, bound.high + 1}) {
      const ParsedFlags flags = Parse({bound.flag, std::to_string(bad)});
      EXPECT_FALSE(flags.config) << bound.flag << " " << bad;
      EXPECT_EQ(flags.exit_code, kExitBadFlags);
      EXPECT_THAT(flags.text, HasSubstr(bound.flag));
    }
  }
  EXPECT_FALSE(Parse({"--threads", "two"}).config);
}

TEST(Config, AddressesBeyondThisMachineNeedInsecure) {
  for (const char* loopback : {"127.0.0.1:0", "localhost:1", "[::1]:50051", "127.8.8.8:9"}) {
    EXPECT_TRUE(Parse({"--grpc-address", loopback}).config) << loopback;
  }
  for (const char* open :
       {"0.0.0.0:50051", "[::]:50051", "192.168.1.4:1", "example.com:1", "127.example.com:1"}) {
    const ParsedFlags flags = Parse({"--grpc-address", open});
    EXPECT_FALSE(flags.config) << open;
    EXPECT_THAT(flags.text, HasSubstr("--insecure"));
    EXPECT_TRUE(Parse({"--grpc-address", open, "--insecure"}).config) << open;
  }
  for (const char* wrong : {"", "50051", ":50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
                            "127.0.0.1:65536", "::1:5"}) {
    EXPECT_FALSE(Parse({"--grpc-address", wrong, "--insecure"}).config) << wrong;
  }
}

TEST(Config, KeysOpenAnAddressAndTlsFilesGoTogether) {
  EXPECT_TRUE(Parse({"--grpc-address", "0.0.0.0:1", "--tenants-file", "t"}).config);
  EXPECT_TRUE(Parse({"--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"}).config);
  EXPECT_THAT(Parse({"--tls-cert", "c"}).text, HasSubstr("--tls-key"));
  EXPECT_THAT(Parse({"--tls-key", "k"}).text, HasSubstr("--tls-cert"));
  EXPECT_THAT(Parse({"--tls-client-ca", "a"}).text, HasSubstr("--tls-cert"));
  EXPECT_FALSE(Parse({"--grpc-address", "0.0.0.0:1", "--tls-cert", "c", "--tls-key", "k"}).config)
      << "TLS alone lets everybody in";
}

TEST(Config, AModelsNameIsOneLineOfText) {
  EXPECT_TRUE(Parse({"--model-name", std::string(256, 'm')}).config);
  for (const std::string& bad :
       {std::string(257, 'm'), std::string("a\nb"), std::string("a\x1b")}) {
    EXPECT_THAT(Parse({"--model-name", bad}).text, HasSubstr("--model-name"));
  }
}

TEST(Config, FlagsThatDoNotGoTogetherAreNamed) {
  EXPECT_THAT(Parse({"--running-requests", "65", "--batch-rows", "64"}).text,
              HasSubstr("--running-requests"));
  EXPECT_THAT(Parse({"--chunk-tokens", "65", "--batch-rows", "64"}).text,
              HasSubstr("--chunk-tokens"));
  EXPECT_TRUE(
      Parse({"--running-requests", "64", "--chunk-tokens", "64", "--batch-rows", "64"}).config);
  EXPECT_THAT(Parse({"--http-access-log", "-"}).text, HasSubstr("--http-address"));
}

TEST(Config, AContextHoldsAPromptAndAnAnswer) {
  EXPECT_THAT(Parse({"--context-tokens", "1"}).text, HasSubstr("--context-tokens"));
  EXPECT_TRUE(Parse({"--context-tokens", "2"}).config);
  EXPECT_TRUE(Parse({"--context-tokens", "0"}).config);
}

TEST(Config, ACacheThatNothingMayBeReadFromIsAMistake) {
  EXPECT_THAT(Parse({"--hf-cache", "/c", "--data-dir", "/d"}).text, HasSubstr("--hub-allow"));
  EXPECT_TRUE(Parse({"--hf-cache", "/c", "--data-dir", "/d", "--hub-allow", "a/*"}).config);
}

TEST(Config, OnACardDefaultsAreLargerAndWhatIsGivenStays) {
  const Config config = *Parse({"--device", "cuda"}).config;
  EXPECT_EQ(config.batch_rows, 2304);
  EXPECT_EQ(config.chunk_tokens, 2048);
  EXPECT_EQ(config.running_requests, 256);
  const Config small = *Parse({"--device", "cuda", "--batch-rows", "100"}).config;
  EXPECT_EQ(small.batch_rows, 100);
  EXPECT_EQ(small.chunk_tokens, 100);
  EXPECT_EQ(small.running_requests, 100);
  EXPECT_EQ(Parse({"--device", "cuda", "--running-requests", "7"}).config->running_requests, 7);
}

TEST(Config, BatchInvariantStepsOnACardAreBounded) {
  const std::string most = std::to_string(kBatchInvariantRowsMax);
  const std::string more = std::to_string(kBatchInvariantRowsMax + 1);
  const Config config = *Parse({"--device", "cuda", "--batch-invariant"}).config;
  EXPECT_EQ(config.batch_rows, kBatchInvariantRowsMax);
  EXPECT_EQ(config.chunk_tokens, kBatchInvariantRowsMax);
  EXPECT_EQ(config.running_requests, kBatchInvariantRowsMax);
  EXPECT_TRUE(
      Parse({"--device", "cuda", "--batch-invariant", "--batch-rows", most.c_str()}).config);
  EXPECT_THAT(Parse({"--device", "cuda", "--batch-invariant", "--batch-rows", more.c_str()}).text,
              HasSubstr("--batch-rows " + more));
  EXPECT_EQ(Parse({"--batch-invariant"}).config->batch_rows, Parse({}).config->batch_rows);
  EXPECT_TRUE(BackendOptionsOf(config).batch_invariant);
  EXPECT_FALSE(BackendOptionsOf(*Parse({}).config).batch_invariant);
}

TEST(Config, PrefixesAreKeptUnlessSwitchedOff) {
  EXPECT_EQ(Parse({}).config->prefix_cache, "on");
  EXPECT_EQ(Parse({"--prefix-cache", "off"}).config->prefix_cache, "off");
  EXPECT_THAT(Parse({"--prefix-cache", "maybe"}).text, HasSubstr("prefix-cache"));
}

TEST(Config, PromptsMayStretchAStepByMoreThanNothing) {
  EXPECT_EQ(Parse({}).config->step_stretch, 2.5);
  for (const char* good : {"1.1", "3", "1000"}) {
    EXPECT_TRUE(Parse({"--step-stretch", good}).config) << good;
  }
  for (const char* bad : {"1.09", "1000.1", "0", "-1", "far", "nan", "inf"}) {
    EXPECT_THAT(Parse({"--step-stretch", bad}).text, HasSubstr("step-stretch")) << bad;
  }
}

TEST(Config, OnACardTheArenaTakesWhatIsLeftUnlessItIsGiven) {
  EXPECT_EQ(Parse({"--device", "cuda"}).config->arena_bytes, 0);
  EXPECT_EQ(Parse({"--device", "cuda", "--arena-bytes", "2GiB"}).config->arena_bytes,
            int64_t{2} << 30);
  for (const char* good : {"0.05", "0.9", "1"}) {
    EXPECT_TRUE(Parse({"--device", "cuda", "--gpu-memory-utilization", good}).config) << good;
  }
  EXPECT_THAT(Parse({"--gpu-memory-utilization", "0.9"}).text, HasSubstr("--arena-bytes"));
  EXPECT_EQ(Parse({"--device", "cuda", "--dtype", "float16"}).config->dtype, "float16");
  EXPECT_THAT(Parse({"--device", "cuda", "--dtype", "int8"}).text, HasSubstr("--dtype"));
  EXPECT_THAT(Parse({"--dtype", "bfloat16"}).text, HasSubstr("fp32"));
  for (const char* bad : {"0.049", "1.01", "-1", "most"}) {
    EXPECT_THAT(Parse({"--device", "cuda", "--gpu-memory-utilization", bad}).text,
                HasSubstr("utilization"))
        << bad;
  }
}

TEST(Config, APrefixOfPathsBeginsAtTheRoot) {
  EXPECT_EQ(Parse({"--http-address", "127.0.0.1:0", "--http-prefix", "/a/b"}).config->http_prefix,
            "/a/b");
  for (const char* bad : {"a", "/a/", "/"}) {
    EXPECT_THAT(Parse({"--http-address", "127.0.0.1:0", "--http-prefix", bad}).text,
                HasSubstr("prefix"));
  }
}

TEST(Config, LoadFormatsAreNamed) {
  EXPECT_EQ(Parse({"--load-format", "dummy"}).config->load_format, "dummy");
  EXPECT_THAT(Parse({"--load-format", "pickle"}).text, HasSubstr("dummy"));
}

TEST(Config, HelpTeachesAndVersionAnswers) {
  const ParsedFlags help = ParseFlags({"--help"});
  EXPECT_EQ(help.exit_code, kExitOk);
  for (const char* part : {"--adapters-dir", "--arena-bytes", "512MiB", "Exit codes", "Example"}) {
    EXPECT_THAT(help.text, HasSubstr(part));
  }
  EXPECT_THAT(ParseFlags({"--version"}).text, HasSubstr("loricad 0."));
}

TEST(Config, MistakesAreNamed) {
  EXPECT_THAT(ParseFlags({}).text, HasSubstr("--model"));
  EXPECT_EQ(ParseFlags({}).exit_code, kExitBadFlags);
  EXPECT_THAT(ParseFlags({"--modle", "x"}).text, HasSubstr("--modle"));
  EXPECT_THAT(ParseFlags({"--model", ""}).text, HasSubstr("--model is missing"));
}

TEST(Config, ReflectionCanBeSwitchedOff) {
  EXPECT_FALSE(Parse({"--no-reflection"}).config->reflection);
}

TEST(Config, DescribesItselfInItsOwnFlags) {
  const ParsedFlags flags = Parse({"--arena-bytes", "512MiB", "--no-reflection"});
  const std::string text = DescribeConfig(*flags.config);
  EXPECT_THAT(text, HasSubstr("--arena-bytes 512MiB"));
  EXPECT_THAT(text, HasSubstr("--reflection=false"));
  EXPECT_FALSE(Parse({"--reflection=false"}).config->reflection);
  EXPECT_THAT(text, HasSubstr("--host-bytes 1GiB"));
}

}  // namespace
}  // namespace lorica
