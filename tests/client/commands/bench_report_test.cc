#include "client/commands/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace lorica {
namespace {

using ::testing::HasSubstr;

BenchSample Finished(double start_s, double ttft_ms, double total_ms) {
  BenchSample sample;
  sample.start_s = start_s;
  sample.ttft_ms = ttft_ms;
  sample.tpot_ms = 10;
  sample.total_ms = total_ms;
  sample.prompt_tokens = 100;
  sample.output_tokens = 50;
  return sample;
}

TEST(Percentile, InterpolatesAsNumpyDoes) {
  const std::vector<double> values = {10, 20, 30, 40};
  EXPECT_DOUBLE_EQ(Percentile(values, 0), 10);
  EXPECT_DOUBLE_EQ(Percentile(values, 50), 25);
  EXPECT_DOUBLE_EQ(Percentile(values, 90), 37);
  EXPECT_DOUBLE_EQ(Percentile(values, 99), 39.7);
  EXPECT_DOUBLE_EQ(Percentile(values, 100), 40);
  EXPECT_DOUBLE_EQ(Percentile({5}, 99), 5);
  EXPECT_DOUBLE_EQ(Percentile({}, 99), 0);
}

TEST(Describe, SortsForItself) {
  const Distribution d = Describe({3, 1, 2});
  EXPECT_EQ(d.count, 3);
  EXPECT_DOUBLE_EQ(d.mean, 2);
  EXPECT_DOUBLE_EQ(d.p50, 2);
  EXPECT_DOUBLE_EQ(d.max, 3);
}

TEST(MakeHistogram, CountsEveryValueOnce) {
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) values.push_back(i % 100);
  values.push_back(1e9);
  values.push_back(0);
  const Histogram histogram = MakeHistogram(values, 20);
  EXPECT_EQ(std::accumulate(histogram.counts.begin(), histogram.counts.end(), int64_t{0}), 1002);
  EXPECT_GE(histogram.counts.back(), 1);
  EXPECT_EQ(MakeHistogram({7, 7}, 5).counts[0], 2);
  EXPECT_EQ(MakeHistogram({100, 101}, 5).start, 100);
}

TEST(BenchReport, SeparatesFinishedFailedAndCut) {
  BenchRecorder recorder(0);
  recorder.AddSample(Finished(0, 100, 600));
  BenchSample failed;
  failed.code = absl::StatusCode::kUnavailable;
  failed.message = "queue full";
  recorder.AddSample(failed);
  BenchSample cut = Finished(1, 300, 0);
  cut.cut = true;
  cut.code = absl::StatusCode::kCancelled;
  cut.tpot_ms = -1;
  recorder.AddSample(cut);
  recorder.AddNotSent();
  recorder.AddTokens(0.1, 30);
  recorder.AddTokens(1.9, 50);
  const BenchReport report = BenchReport::From(recorder, 2);
  EXPECT_EQ(report.finished, 1);
  EXPECT_EQ(report.failed, 1);
  EXPECT_EQ(report.cut, 1);
  EXPECT_EQ(report.not_sent, 1);
  EXPECT_EQ(report.failures.at("UNAVAILABLE"), 1);
  EXPECT_EQ(report.ttft_ms, (std::vector<double>{100, 300}));
  EXPECT_EQ(report.total_ms, (std::vector<double>{600}));
  EXPECT_EQ(report.tpot_ms, (std::vector<double>{10}));
  EXPECT_DOUBLE_EQ(report.output_rate(), 40);
  EXPECT_DOUBLE_EQ(report.prompt_rate(), 100);
  EXPECT_EQ(report.tokens_per_second, (std::vector<double>{60, 0, 0, 100}));
}

TEST(BenchReport, LeavesTheWarmupOut) {
  BenchRecorder recorder(2);
  recorder.AddSample(Finished(1.9, 5000, 6000));
  recorder.AddSample(Finished(2.0, 100, 600));
  recorder.AddTokens(1.99, 1000);
  recorder.AddTokens(2.1, 10);
  const BenchReport report = BenchReport::From(recorder, 4);
  EXPECT_EQ(report.finished, 1);
  EXPECT_EQ(report.output_tokens, 10);
  EXPECT_DOUBLE_EQ(report.seconds, 2);
}

TEST(BenchReport, JsonNamesEveryFigure) {
  BenchRecorder recorder(0);
  recorder.AddSample(Finished(0, 100, 600));
  const Json json = ReportToJson(BenchReport::From(recorder, 2));
  EXPECT_EQ(json["requests"]["finished"], 1);
  EXPECT_EQ(json["ttft_ms"]["p50"], 100.0);
  EXPECT_EQ(json["tpot_ms"]["p99"], 10.0);
  EXPECT_TRUE(json.contains("output_tokens_per_second"));
}

TEST(BenchReport, TextShowsFailuresWithTheirReason) {
  BenchRecorder recorder(0);
  BenchSample failed;
  failed.code = absl::StatusCode::kNotFound;
  failed.message = "no adapter x";
  recorder.AddSample(failed);
  const std::string text = ReportToText(BenchReport::From(recorder, 1), stdout);
  EXPECT_THAT(text, HasSubstr("1 × NOT_FOUND: no adapter x"));
}

TEST(ReportToSvg, IsOneEscapedDocumentWithEveryBar) {
  BenchRecorder recorder(0);
  for (int i = 0; i < 50; ++i) recorder.AddSample(Finished(0, 100 + i, 600));
  recorder.AddTokens(0.1, 5);
  const std::string svg = ReportToSvg(BenchReport::From(recorder, 1), "a < b & c");
  EXPECT_EQ(svg.rfind("<svg", 0), 0);
  EXPECT_THAT(svg, HasSubstr("</svg>"));
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; c"));
  EXPECT_THAT(svg, HasSubstr("polyline"));
  EXPECT_THAT(svg, HasSubstr("p99"));
  EXPECT_NO_THROW(ReportToSvg(BenchReport(), "empty"));
}

}  // namespace
}  // namespace lorica
