// The alert rules and the dashboard in a real Prometheus that scrapes a real server.
#include <signal.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "tests/fakes/free_port.h"
#include "tests/fakes/subprocess.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr char kPrometheus[] = "/usr/bin/prometheus";

std::string Escaped(const std::string& text) {
  std::string escaped;
  for (const unsigned char c : text) {
    if (absl::ascii_isalnum(c)) {
      escaped += static_cast<char>(c);
    } else {
      absl::StrAppendFormat(&escaped, "%%%02X", c);
    }
  }
  return escaped;
}

class MetricsPrometheusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access(kPrometheus, X_OK) != 0) GTEST_SKIP() << "no " << kPrometheus;
    port_ = FreePort();
    folder_.Write("prometheus.yml",
                  absl::StrCat("global: {scrape_interval: 1s, evaluation_interval: 1s}\n",
                               "rule_files: [" LORICA_SOURCE_DIR "/deploy/monitoring/alerts.yml]\n",
                               "scrape_configs:\n  - job_name: lorica\n    static_configs: "
                               "[{targets: [\"127.0.0.1:",
                               server_.server().http_port(), "\"]}]\n"));
    prometheus_ = std::make_unique<Subprocess>(std::vector<std::string>{
        kPrometheus, "--config.file", folder_.path() + "/prometheus.yml", "--storage.tsdb.path",
        folder_.path() + "/data", "--web.listen-address", absl::StrCat("127.0.0.1:", port_)});
    ASSERT_TRUE(Until([&] { return HttpCall(port_, "GET", "/-/ready").status == 200; }))
        << prometheus_->error();
  }
  void TearDown() override {
    if (prometheus_ == nullptr) return;
    prometheus_->Signal(SIGTERM);
    prometheus_->Wait();
  }
  template <typename Condition>
  static bool Until(Condition condition) {
    const absl::Time end = absl::Now() + absl::Seconds(40);
    while (!condition()) {
      if (absl::Now() > end) return false;
      absl::SleepFor(absl::Milliseconds(100));
    }
    return true;
  }
  Json Api(const std::string& path) { return HttpCall(port_, "GET", "/api/v1/" + path).json(); }
  // The series of a query; null if it is refused.
  Json Query(const std::string& query) {
    const Json answer = Api("query?query=" + Escaped(query));
    if (answer.value("status", "") != "success") return nullptr;
    return answer["data"]["result"];
  }

  TinyServer server_;
  TemporaryFolder folder_;
  int port_ = 0;
  std::unique_ptr<Subprocess> prometheus_;
};

TEST_F(MetricsPrometheusTest, RulesLoadAndEveryChartHasItsLines) {
  const Json body = {{"inputs", "hi"},
                     {"parameters", {{"adapter_id", "plain"}, {"max_new_tokens", 4}}}};
  ASSERT_EQ(Post(server_.server().http_port(), "/generate", body).status, 200);
  ASSERT_TRUE(Until([&] { return Query("count_over_time(up[1m]) > 2") != Json::array(); }));
  Json rules;
  ASSERT_TRUE(Until([&] {
    rules = Api("rules")["data"]["groups"][0]["rules"];
    return rules.size() > 5 && rules.back()["health"] == "ok";
  })) << rules;
  for (const Json& rule : rules) {
    EXPECT_EQ(rule["health"], "ok") << rule;
    EXPECT_EQ(rule["state"], "inactive") << rule;
  }
  const Json dashboard =
      Json::parse(std::ifstream(LORICA_SOURCE_DIR "/deploy/monitoring/dashboard.json"));
  int lines = 0;
  for (const Json& panel : dashboard["panels"]) {
    for (const Json& target : panel.value("targets", Json::array())) {
      const std::string query = absl::StrReplaceAll(
          target["expr"].get<std::string>(), {{"$__rate_interval", "1m"}, {"$instance", ".*"}});
      const Json result = Query(query);
      EXPECT_FALSE(result.is_null()) << panel["title"] << ": " << query;
      EXPECT_FALSE(result.empty()) << panel["title"] << ": " << query;
      ++lines;
    }
  }
  EXPECT_GT(lines, 15);
}

}  // namespace
}  // namespace lorica
