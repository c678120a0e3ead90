// What is left in /metrics of ten thousand adapters, each with its own content.
#include <algorithm>
#include <iostream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

constexpr int kAdapters = 10'000;

// Samples, without their values.
std::vector<std::string> Series(const std::string& page) {
  std::vector<std::string> series;
  const std::vector<std::string> lines = absl::StrSplit(page, '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    if (line[0] != '#') series.push_back(line.substr(0, line.rfind(' ')));
  }
  return series;
}

TEST(MetricsManyTest, OneSeriesIsLeftOfTenThousandAdapters) {
  TinyServer server;
  const int port = server.server().http_port();
  const auto generate = [port](const std::string& adapter) {
    return Post(
               port, "/generate",
               {{"inputs", "hi"}, {"parameters", {{"adapter_id", adapter}, {"max_new_tokens", 1}}}})
        .status;
  };
  ASSERT_EQ(generate("plain"), 200);
  const size_t before = Series(HttpCall(port, "GET", "/metrics").body).size();
  for (int i = 0; i < kAdapters; ++i) {
    const std::string name = absl::StrCat("g", i / 100, "/a", i);
    WriteTinyAdapter(server.adapters(), name, 1, /*dora=*/false, /*seed=*/i);
    ASSERT_EQ(generate(name), 200) << name;
  }
  std::vector<absl::Duration> waits;
  std::string page;
  for (int i = 0; i < 21; ++i) {
    const absl::Time began = absl::Now();
    page = HttpCall(port, "GET", "/metrics").body;
    waits.push_back(absl::Now() - began);
  }
  std::sort(waits.begin(), waits.end());
  std::cout << "/metrics with " << kAdapters << " adapters: " << waits[10] << ", the median of "
            << waits.size() << "\n";
  EXPECT_LT(waits[10], absl::Milliseconds(5));
  const std::vector<std::string> after = Series(page);
  EXPECT_EQ(after.size(), before);
  EXPECT_EQ(std::count_if(after.begin(), after.end(),
                          [](const std::string& name) {
                            return absl::StrContains(name, "lora_requests_info");
                          }),
            1);
  EXPECT_GE(server.Status().counters().adapter_loads(), kAdapters);
}

}  // namespace
}  // namespace lorica
