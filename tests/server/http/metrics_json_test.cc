#include "server/http/metrics_json.h"

#include "gtest/gtest.h"
#include "server/http/json.h"

namespace lorica {
namespace {

TEST(MetricsJsonTest, KeysAreThoseOfLorax) {
  const Json json = Json::parse(
      MetricsJson("# HELP a_total What {a} is\n# TYPE a_total counter\na_total 3\n"
                  "# TYPE b gauge\nb{x=\"1 } 2\",y=\"\\\"\"} 0.5 1700000000000\nb{x=\"2\"} NaN\n"
                  "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 1.5\nh_count 2\n"
                  "# TYPE empty gauge\n"));
  const auto sample = [](const std::string& key, const Json& value) {
    return Json({{"key", key}, {"value", value}});
  };
  EXPECT_EQ(json["a_total"], Json({{"type", "counter"}, {"data", {sample("", 3.0)}}}));
  EXPECT_EQ(json["b"]["data"],
            Json({sample("b{x=\"1 } 2\",y=\"\\\"\"}", 0.5), sample("b{x=\"2\"}", nullptr)}));
  EXPECT_EQ(json["h"]["type"], "histogram");
  EXPECT_EQ(json["h"]["data"],
            Json({sample("h_bucket{le=\"+Inf\"}", 2.0), sample("sum", 1.5), sample("count", 2.0)}));
  EXPECT_EQ(json["empty"]["data"], Json::array());
}

}  // namespace
}  // namespace lorica
