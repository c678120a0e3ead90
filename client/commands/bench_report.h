// What a bench measured, as numbers, text, JSON and a picture.
#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "client/commands/json_mapping.h"

namespace lorica {

// One request as the client saw it. Times count from when it was due to be sent, so that
// an open loop does not hide the server's queue behind its own.
struct BenchSample {
  double start_s = 0;   // since the run began
  double ttft_ms = -1;  // first token; negative: none came
  double tpot_ms = -1;  // (last - first token) / (tokens - 1); negative: unknown
  double total_ms = 0;
  std::vector<double> gaps_ms;  // between one chunk with tokens and the next
  int prompt_tokens = 0;
  int output_tokens = 0;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string message;
  bool cut = false;  // the run ended first; its tokens count, its total time does not
};

struct Distribution {
  int64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};

// Linear between the two nearest ranks, as numpy does; 0 for no values. Sorted input.
double Percentile(const std::vector<double>& sorted, double percent);
Distribution Describe(std::vector<double> values);

// Counts in `bins` equal bins from the least value to a bit above the 99th percentile;
// the last bin also takes what is beyond.
struct Histogram {
  double start = 0;
  double bin_width = 1;
  std::vector<int64_t> counts;
};
Histogram MakeHistogram(std::vector<double> values, int bins);

// Gathers samples from many threads. Thread-safe.
class BenchRecorder {
 public:
  // Samples that start and tokens that arrive before `warmup_s` are left out.
  explicit BenchRecorder(double warmup_s);

  void AddTokens(double at_s, int count);
  void AddSample(BenchSample sample);
  void AddNotSent();

  int64_t tokens() const;
  int64_t requests() const;

 private:
  friend struct BenchReport;

  const double warmup_s_;
  mutable absl::Mutex mutex_;
  std::vector<BenchSample> samples_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> tokens_by_slot_ ABSL_GUARDED_BY(mutex_);  // kSlotSeconds each
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t not_sent_ ABSL_GUARDED_BY(mutex_) = 0;
};

inline constexpr double kSlotSeconds = 0.5;

struct BenchReport {
  double seconds = 0;  // measured, after the warm-up
  int64_t finished = 0, failed = 0, cut = 0, not_sent = 0;
  int64_t output_tokens = 0;
  int64_t prompt_tokens = 0;                           // of requests whose first token came
  std::map<std::string, int64_t> failures;             // code -> requests
  std::map<std::string, std::string> failure_example;  // code -> one message
  std::vector<double> ttft_ms, tpot_ms, itl_ms, total_ms;
  std::vector<double> tokens_per_second;  // a value for each kSlotSeconds

  static BenchReport From(const BenchRecorder& recorder, double end_s);

  double output_rate() const { return seconds > 0 ? output_tokens / seconds : 0; }
  double prompt_rate() const { return seconds > 0 ? prompt_tokens / seconds : 0; }
};

Json ReportToJson(const BenchReport& report);
std::string ReportToText(const BenchReport& report, FILE* stream);

// Three panels: TTFT, TPOT, tokens per second over time. A whole SVG document.
std::string ReportToSvg(const BenchReport& report, const std::string& title);

}  // namespace lorica
