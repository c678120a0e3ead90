#include "server/api/refusal_log.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/api/log_lines.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Far apart, so that no test is in another's second.
absl::Time NextTime() {
  static absl::Time now = absl::FromUnixSeconds(1'700'000'000);
  return now += absl::Seconds(100);
}

TEST(RefusalLog, OneLineOfFieldsForEach) {
  const absl::Time now = NextTime();
  const int64_t before = RefusalsLogged();
  EXPECT_THAT(
      LinesOf([&] {
        LogRefusal("Generate", "a", absl::NotFoundError("there is none"), now);
        LogFailure("Generate", "a,b", absl::DataLossError("it holds NaN"), now);
        LogStale("org/a", absl::UnavailableError("no answer"), now);
      }),
      ElementsAre(
          R"(refused method=Generate code=NOT_FOUND adapter="a" left_out=0 reason="there is none")",
          R"(failed method=Generate code=DATA_LOSS adapter="a,b" left_out=0 reason="it holds NaN")",
          R"(stale method=look code=UNAVAILABLE adapter="org/a" left_out=0 reason="no answer")"));
  EXPECT_EQ(RefusalsLogged(), before + 3);
}

TEST(RefusalLog, WhatIsNotReachedCrowdsOutNoCall) {
  const absl::Time now = NextTime();
  const int64_t before = RefusalsLogged();
  const std::vector<std::string> lines = LinesOf([&] {
    for (int i = 0; i < kRefusalLinesPerSecond + 5; ++i) {
      LogUnreached(absl::UnavailableError("'hub': no answer"), now);
    }
    LogRefusal("Generate", "a", absl::NotFoundError("there is none"), now);
  });
  ASSERT_EQ(lines.size(), size_t{kRefusalLinesPerSecond} + 1);
  EXPECT_EQ(lines.front(), R"(unreached method=fetch code=UNAVAILABLE adapter="" left_out=0 )"
                           R"(reason="'hub': no answer")");
  EXPECT_THAT(lines.back(), HasSubstr("refused method=Generate"));
  EXPECT_EQ(RefusalsLogged(), before + 1);
}

TEST(RefusalLog, WhatClientsSayMakesNoLineOfItsOwn) {
  const absl::Time now = NextTime();
  const std::string hostile = "a\nrefused method=x\r\x1b[2J\xff" + std::string(4096, 'y');
  const std::vector<std::string> lines =
      LinesOf([&] { LogRefusal("Generate", hostile, absl::InternalError(hostile), now); });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_LT(lines[0].size(), 1500u);
  for (const char c : lines[0]) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << int{c};
}

TEST(RefusalLog, QuotesInTextsEndNoField) {
  const absl::Time now = NextTime();
  EXPECT_THAT(LinesOf([&] {
                LogRefusal("Generate", "a\" code=OK b=\"", absl::NotFoundError("\"x\" in C:\\"),
                           now);
              }),
              ElementsAre(testing::AllOf(HasSubstr(R"(adapter="a\" code=OK b=\"" left_out=0)"),
                                         HasSubstr(R"(reason="\"x\" in C:\\")"))));
}

TEST(RefusalLog, AFloodIsTenLinesASecondAndTheRestIsCounted) {
  const absl::Time now = NextTime();
  const int64_t before = RefusalsLogged();
  const auto refuse = [](int count, absl::Time at) {
    for (int i = 0; i < count; ++i) LogRefusal("Generate", "", absl::NotFoundError("x"), at);
  };
  EXPECT_EQ(LinesOf([&] { refuse(kRefusalLinesPerSecond, now); }).size(), kRefusalLinesPerSecond);
  EXPECT_THAT(LinesOf([&] { refuse(1000, now + absl::Milliseconds(999)); }), ElementsAre());
  EXPECT_THAT(LinesOf([&] { refuse(2, now + absl::Seconds(1)); }),
              ElementsAre(HasSubstr("left_out=1000 "), HasSubstr("left_out=0 ")));
  EXPECT_EQ(RefusalsLogged(), before + kRefusalLinesPerSecond + 1002);
}

}  // namespace
}  // namespace lorica
