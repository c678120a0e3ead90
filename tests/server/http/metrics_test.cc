// What /metrics says of a whole server that is used.
#include "server/http/metrics.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "adapters/sha256.h"
#include "gmock/gmock.h"
#include "tests/fakes/subprocess.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr int kKnownNames = 10'000;

std::string HashOf(const std::string& key) {
  Sha256 hash;
  hash.Update(key);
  return hash.Finish();
}

class MetricsTest : public ::testing::Test {
 protected:
  // Series to values; every line must be well formed.
  std::map<std::string, double> Scrape() {
    static const std::regex kSample(R"re(([a-zA-Z_:][\w:]*(?:\{.*\})?) (\S+))re");
    static const std::regex kComment(R"(# (HELP|TYPE) [a-zA-Z_:][\w:]* .+)");
    page_ = HttpCall(port(), "GET", "/metrics").body;
    std::map<std::string, double> series;
    const std::vector<std::string> lines = absl::StrSplit(page_, '\n', absl::SkipEmpty());
    for (const std::string& line : lines) {
      std::smatch match;
      if (std::regex_match(line, match, kSample)) {
        EXPECT_TRUE(series.emplace(match[1], std::atof(match[2].str().c_str())).second) << line;
      } else {
        EXPECT_TRUE(std::regex_match(line, kComment)) << line;
      }
    }
    return series;
  }
  // Those whose name is `name`.
  static std::vector<std::pair<std::string, double>> Named(
      const std::map<std::string, double>& series, const std::string& name) {
    std::vector<std::pair<std::string, double>> found;
    for (const auto& entry : series) {
      if (absl::StartsWith(entry.first, name + "{")) found.push_back(entry);
    }
    return found;
  }
  HttpAnswer Generate(const std::string& adapter, int tokens = 4) {
    return Post(
        port(), "/generate",
        {{"inputs", "hi"},
         {"parameters",
          {{"adapter_id", adapter}, {"max_new_tokens", tokens}, {"ignore_eos_token", true}}}});
  }
  int port() { return server_.server().http_port(); }

  TinyServer server_;
  std::string page_;
};

TEST_F(MetricsTest, RequestsAreCountedAndTimed) {
  EXPECT_EQ(Scrape().at("lorica_request_seconds_count"), 0) << "the warm-up is nobody's";
  const auto before = Scrape();
  for (int i = 0; i < 5; ++i) ASSERT_EQ(Generate(i % 2 == 0 ? "" : "plain").status, 200);
  Generate("missing");
  // The last step is timed when it has ended, a moment after its answer.
  auto after = Scrape();
  const auto grown = [&](const char* series) { return after.at(series) - before.at(series); };
  const absl::Time limit = absl::Now() + absl::Seconds(10);
  while (after.at("lorica_step_seconds_count") < grown("lorica_steps_total") &&
         absl::Now() < limit) {
    after = Scrape();
  }
  EXPECT_EQ(grown("lorica_requests_total{outcome=\"finished\"}"), 5);
  EXPECT_EQ(grown("lorica_requests_refused_total"), 1);
  EXPECT_EQ(grown("lorica_generated_tokens_total"), 20);
  EXPECT_EQ(grown("lorica_prompt_tokens_total"), 10);
  EXPECT_EQ(after.at("lorica_time_to_first_token_seconds_count"), 5);
  EXPECT_EQ(after.at("lorica_time_per_output_token_seconds_count"), 5);
  EXPECT_EQ(after.at("lorica_queue_seconds_count"), 5);
  EXPECT_EQ(after.at("lorica_completion_tokens_sum"), 20);
  EXPECT_EQ(after.at("lorica_step_seconds_count"), grown("lorica_steps_total"));
  EXPECT_EQ(after.at("lorica_step_rows_sum"), grown("lorica_rows_total"));
  EXPECT_EQ(grown("lorica_adapter_load_seconds_count"), 1);
  EXPECT_GT(grown("lorica_adapter_load_seconds_sum"), 0);
  EXPECT_EQ(grown("lorica_tier_misses_total{tier=\"device\"}"), 1);
  EXPECT_EQ(after.at("lorica_tier_adapters{tier=\"device\"}"), 1);
  EXPECT_EQ(after.at("lorica_serving"), 1);
}

TEST_F(MetricsTest, RoutersFindTheirNames) {
  ASSERT_EQ(Generate("plain").status, 200);
  const auto series = Scrape();
  EXPECT_EQ(series.at("vllm:num_requests_running{model_name=\"tiny-llama\"}"), 0);
  EXPECT_EQ(series.at("vllm:num_requests_waiting{model_name=\"tiny-llama\"}"), 0);
  EXPECT_EQ(series.at("vllm:kv_cache_usage_perc{model_name=\"tiny-llama\"}"), 0);
  EXPECT_EQ(Named(series, "vllm:cache_config_info").size(), 1u);
  const auto lora = Named(series, "vllm:lora_requests_info");
  ASSERT_EQ(lora.size(), 1u);
  EXPECT_THAT(lora[0].first, HasSubstr("running_lora_adapters=\"plain\""));
  EXPECT_THAT(lora[0].first, HasSubstr("waiting_lora_adapters=\"\""));
  EXPECT_NEAR(lora[0].second, absl::ToUnixSeconds(absl::Now()), 10);
  const auto again = Named(Scrape(), "vllm:lora_requests_info");
  EXPECT_GT(again[0].second, lora[0].second);
}

TEST_F(MetricsTest, SeriesDoNotGrowWithAdapters) {
  ASSERT_EQ(Generate("plain").status, 200);
  const size_t before = Scrape().size();
  for (int rank = 1; rank <= 64; ++rank) {
    const std::string name = absl::StrCat("many/a", rank);
    server_.WriteAdapter(name, rank, /*dora=*/false);
    ASSERT_EQ(Generate(name, 1).status, 200);
    Generate(absl::StrCat("unknown-", rank), 1);
  }
  const auto after = Scrape();
  EXPECT_EQ(after.size(), before);
  const auto lora = Named(after, "vllm:lora_requests_info");
  ASSERT_EQ(lora.size(), 1u);
  EXPECT_THAT(lora[0].first, HasSubstr("many/a64"));
}

TEST_F(MetricsTest, ManyKnownAdaptersDoNotSlowTheScrape) {
  for (int i = 0; i < kKnownNames; ++i) {
    v1::RegisterAdapterRequest request;
    request.set_adapter_id(absl::StrCat("name-", i));
    request.set_source("plain");
    v1::RegisterAdapterResponse response;
    Context context;
    ASSERT_TRUE(server_.admin().RegisterAdapter(&context, request, &response).ok());
  }
  ASSERT_EQ(Generate("name-9999").status, 200);
  std::vector<absl::Duration> waits;
  for (int i = 0; i < 21; ++i) {
    const absl::Time began = absl::Now();
    HttpCall(port(), "GET", "/metrics");
    waits.push_back(absl::Now() - began);
  }
  std::sort(waits.begin(), waits.end());
  EXPECT_LT(waits[10], absl::Milliseconds(5));
  EXPECT_EQ(Named(Scrape(), "vllm:lora_requests_info").size(), 1u);
}

TEST_F(MetricsTest, PromtoolFindsNothingToSay) {
  if (RunToEnd({"/bin/sh", "-c", "command -v promtool"}, "").code != 0) {
    GTEST_SKIP() << "no promtool here";
  }
  ASSERT_EQ(Generate("plain").status, 200);
  Scrape();
  // vLLM's names have a colon, which is for rules alone: it would complain of that.
  std::vector<std::string> ours = absl::StrSplit(page_, '\n');
  std::erase_if(ours, [](const std::string& line) { return absl::StrContains(line, "vllm:"); });
  const RunResult page =
      RunToEnd({"/bin/sh", "-c", "promtool check metrics"}, absl::StrJoin(ours, "\n"));
  EXPECT_EQ(page.code, 0) << page.output << page.error;
  const RunResult rules = RunToEnd(
      {"/bin/sh", "-c", "promtool check rules " LORICA_SOURCE_DIR "/deploy/monitoring/alerts.yml"},
      "");
  EXPECT_EQ(rules.code, 0) << rules.output << rules.error;
  const RunResult fired =
      RunToEnd({"/bin/sh", "-c",
                "promtool test rules " LORICA_SOURCE_DIR "/tests/server/http/alerts_test.yml"},
               "");
  EXPECT_EQ(fired.code, 0) << fired.output << fired.error;
}

// Every series that a chart or an alert asks for is there.
TEST_F(MetricsTest, ChartsAndAlertsAskForWhatThereIs) {
  ASSERT_EQ(Generate("plain").status, 200);
  Scrape();
  static const std::regex kName(R"((?:lorica_|vllm:)[a-z_]+)");
  for (const char* file : {"dashboard.json", "alerts.yml"}) {
    std::ifstream in(absl::StrCat(LORICA_SOURCE_DIR "/deploy/monitoring/", file));
    const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    int names = 0;
    for (std::sregex_iterator it(text.begin(), text.end(), kName), end; it != end; ++it, ++names) {
      EXPECT_TRUE(absl::StrContains(page_, "\n" + it->str())) << file << ": " << it->str();
    }
    EXPECT_GT(names, 3) << file;
  }
}

TEST(MetricsForTenantsTest, NamesAreForOperatorsWhereKeysAreNeeded) {
  TemporaryFolder folder;
  Config config;
  config.tenants_file = folder.path() + "/tenants.json";
  folder.Write("tenants.json",
               Json({{"tenants",
                      {{{"name", "ops"},
                        {"keys", {HashOf("ops-key")}},
                        {"role", "operator"},
                        {"adapters", {"*"}}},
                       {{"name", "app"}, {"keys", {HashOf("app-key")}}, {"adapters", {"*"}}}}}})
                   .dump());
  TinyServer server(config);
  const int port = server.server().http_port();
  const auto key = [](const char* name) {
    return HttpHeaders{{"Authorization", absl::StrCat("Bearer ", name, "-key")}};
  };
  const Json body = {{"model", "plain"}, {"prompt", "hi"}, {"max_tokens", 1}};
  EXPECT_EQ(Post(port, "/v1/completions", body).status, 401);
  EXPECT_EQ(Post(port, "/v1/completions", body, key("wrong")).status, 401);
  EXPECT_EQ(Post(port, "/v1/completions", body, key("app")).status, 200);
  EXPECT_EQ(HttpCall(port, "GET", "/v1/models").status, 401);
  EXPECT_EQ(Post(port, "/generate", {{"inputs", "hi"}}).json()["error_type"], "authentication");
  EXPECT_EQ(Post(port, "/tokenize", {{"inputs", "hi"}}).status, 401);
  const Json load = {{"lora_name", "mine"}, {"lora_path", "plain"}};
  EXPECT_EQ(Post(port, "/v1/load_lora_adapter", load, key("app")).status, 403);
  EXPECT_EQ(Post(port, "/v1/load_lora_adapter", load, key("ops")).status, 200);
  EXPECT_EQ(HttpCall(port, "GET", "/health").status, 200);
  const auto told = [&](HttpHeaders headers) {
    const HttpAnswer answer = HttpCall(port, "GET", "/metrics", "", std::move(headers));
    EXPECT_EQ(answer.status, 200);
    return absl::StrContains(answer.body, "lora_requests_info");
  };
  EXPECT_FALSE(told({}));
  EXPECT_THAT(HttpCall(port, "GET", "/metrics", "", key("app")).body,
              ::testing::Not(HasSubstr("tenant=\"app\"")));
  const std::string page = HttpCall(port, "GET", "/metrics", "", key("ops")).body;
  EXPECT_THAT(page, HasSubstr("lorica_tenant_requests_total{tenant=\"app\"} 1\n"));
  EXPECT_THAT(page,
              HasSubstr("lorica_tenant_tokens_total{tenant=\"app\",kind=\"completion\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("lorica_tenant_tokens_total{tenant=\"app\",kind=\"prompt\"} 2\n"));
  EXPECT_FALSE(told(key("app")));
  EXPECT_TRUE(told(key("ops")));
}

}  // namespace
}  // namespace lorica
