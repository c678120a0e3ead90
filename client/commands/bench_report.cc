#include "client/commands/bench_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/commands/terminal.h"

namespace lorica {
namespace {

constexpr int kTextBins = 12;
constexpr int kTextBarCells = 40;

Json DistributionToJson(const std::vector<double>& values) {
  const Distribution d = Describe(values);
  return {{"count", d.count}, {"mean", d.mean}, {"p50", d.p50},
          {"p90", d.p90},     {"p99", d.p99},   {"max", d.max}};
}

void AddDistribution(const std::string& name, const std::vector<double>& values, Table* table) {
  const Distribution d = Describe(values);
  if (d.count == 0) {
    table->AddRow({name, "0", "–", "–", "–", "–", "–"});
    return;
  }
  table->AddRow({name, HumanCount(d.count), Fixed(d.p50, 1), Fixed(d.p90, 1), Fixed(d.p99, 1),
                 Fixed(d.max, 1), Fixed(d.mean, 1)});
}

std::string HistogramText(const std::string& title, const std::vector<double>& values,
                          FILE* stream) {
  if (values.size() < 2) return "";
  const Histogram histogram = MakeHistogram(values, kTextBins);
  const int64_t most = *std::max_element(histogram.counts.begin(), histogram.counts.end());
  Table table({">from ms", "", ">count"});
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    const int cells =
        std::ceil(static_cast<double>(histogram.counts[i]) / most * kTextBarCells - 1e-9);
    std::string bar;
    for (int k = 0; k < cells; ++k) bar += "█";
    table.AddRow({Fixed(histogram.start + i * histogram.bin_width, 1), bar,
                  HumanCount(histogram.counts[i])});
  }
  return absl::StrCat("\n", Paint(Ink::kBold, title, stream), "\n", table.ToString(stream));
}

std::string FailuresText(const BenchReport& report, FILE* stream) {
  std::string text;
  for (const auto& [code, count] : report.failures) {
    absl::StrAppend(&text, Paint(Ink::kRed, absl::StrCat(HumanCount(count), " × ", code), stream),
                    ": ", Printable(report.failure_example.at(code)), "\n");
  }
  return text;
}

}  // namespace

double Percentile(const std::vector<double>& sorted, double percent) {
  if (sorted.empty()) return 0;
  const double at = percent / 100 * (sorted.size() - 1);
  const size_t low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

Distribution Describe(std::vector<double> values) {
  Distribution d;
  if (values.empty()) return d;
  std::sort(values.begin(), values.end());
  d.count = values.size();
  d.mean = std::accumulate(values.begin(), values.end(), 0.0) / values.size();
  d.p50 = Percentile(values, 50);
  d.p90 = Percentile(values, 90);
  d.p99 = Percentile(values, 99);
  d.max = values.back();
  return d;
}

Histogram MakeHistogram(std::vector<double> values, int bins) {
  Histogram histogram;
  histogram.counts.assign(bins, 0);
  std::sort(values.begin(), values.end());
  histogram.start = values.empty() ? 0 : values.front();
  const double range = (Percentile(values, 99) - histogram.start) * 1.05;
  histogram.bin_width = range > 0 ? range / bins : 1;
  for (const double value : values) {
    const int bin =
        static_cast<int>(std::min<double>(bins, (value - histogram.start) / histogram.bin_width));
    ++histogram.counts[std::clamp(bin, 0, bins - 1)];
  }
  return histogram;
}

BenchRecorder::BenchRecorder(double warmup_s) : warmup_s_(warmup_s) {}

void BenchRecorder::AddTokens(double at_s, int count) {
  if (at_s < warmup_s_ || count == 0) return;
  const size_t slot = static_cast<size_t>((at_s - warmup_s_) / kSlotSeconds);
  absl::MutexLock lock(&mutex_);
  if (tokens_by_slot_.size() <= slot) tokens_by_slot_.resize(slot + 1);
  tokens_by_slot_[slot] += count;
  tokens_ += count;
}

void BenchRecorder::AddSample(BenchSample sample) {
  if (sample.start_s < warmup_s_) return;
  absl::MutexLock lock(&mutex_);
  samples_.push_back(std::move(sample));
}

void BenchRecorder::AddNotSent() {
  absl::MutexLock lock(&mutex_);
  ++not_sent_;
}

int64_t BenchRecorder::tokens() const {
  absl::MutexLock lock(&mutex_);
  return tokens_;
}

int64_t BenchRecorder::requests() const {
  absl::MutexLock lock(&mutex_);
  return samples_.size();
}

BenchReport BenchReport::From(const BenchRecorder& recorder, double end_s) {
  absl::MutexLock lock(&recorder.mutex_);
  BenchReport report;
  report.seconds = std::max(0.0, end_s - recorder.warmup_s_);
  report.not_sent = recorder.not_sent_;
  report.output_tokens = recorder.tokens_;
  for (const int64_t count : recorder.tokens_by_slot_) {
    report.tokens_per_second.push_back(count / kSlotSeconds);
  }
  for (const BenchSample& sample : recorder.samples_) {
    const bool failed = !sample.cut && sample.code != absl::StatusCode::kOk;
    if (failed) {
      const std::string code = absl::StatusCodeToString(sample.code);
      ++report.failed;
      ++report.failures[code];
      report.failure_example.emplace(code, sample.message);
      continue;
    }
    ++(sample.cut ? report.cut : report.finished);
    if (sample.ttft_ms >= 0) {
      report.ttft_ms.push_back(sample.ttft_ms);
      report.prompt_tokens += sample.prompt_tokens;
    }
    report.itl_ms.insert(report.itl_ms.end(), sample.gaps_ms.begin(), sample.gaps_ms.end());
    if (sample.tpot_ms >= 0) report.tpot_ms.push_back(sample.tpot_ms);
    if (!sample.cut) report.total_ms.push_back(sample.total_ms);
  }
  return report;
}

Json ReportToJson(const BenchReport& report) {
  Json failures = Json::object();
  for (const auto& [code, count] : report.failures) {
    failures[code] = {{"count", count}, {"example", report.failure_example.at(code)}};
  }
  return {{"seconds", report.seconds},
          {"requests",
           {{"finished", report.finished},
            {"failed", report.failed},
            {"cut", report.cut},
            {"not_sent", report.not_sent}}},
          {"failures", failures},
          {"output_tokens", report.output_tokens},
          {"output_tokens_per_second", report.output_rate()},
          {"prompt_tokens_per_second", report.prompt_rate()},
          {"ttft_ms", DistributionToJson(report.ttft_ms)},
          {"tpot_ms", DistributionToJson(report.tpot_ms)},
          {"itl_ms", DistributionToJson(report.itl_ms)},
          {"total_ms", DistributionToJson(report.total_ms)}};
}

std::string ReportToText(const BenchReport& report, FILE* stream) {
  std::string text = absl::StrCat(
      Paint(Ink::kBold, absl::StrCat(Fixed(report.output_rate(), 1), " tok/s"), stream),
      " generated, ", Fixed(report.prompt_rate(), 1), " tok/s of prompts, in ",
      HumanDuration(report.seconds), "\n", HumanCount(report.finished), " finished, ",
      HumanCount(report.failed), " failed, ", HumanCount(report.cut), " cut by the end");
  if (report.not_sent > 0) {
    absl::StrAppend(&text, ", ", HumanCount(report.not_sent), " not sent (too many in flight)");
  }
  absl::StrAppend(&text, "\n", FailuresText(report, stream), "\n");
  Table table({"ms", ">count", ">p50", ">p90", ">p99", ">max", ">mean"});
  AddDistribution("first token (TTFT)", report.ttft_ms, &table);
  AddDistribution("each further (TPOT)", report.tpot_ms, &table);
  AddDistribution("gap between chunks", report.itl_ms, &table);
  AddDistribution("whole answer", report.total_ms, &table);
  absl::StrAppend(&text, table.ToString(stream),
                  HistogramText("first token", report.ttft_ms, stream),
                  HistogramText("each further token", report.tpot_ms, stream));
  return text;
}

}  // namespace lorica
