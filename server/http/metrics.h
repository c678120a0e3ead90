// What Prometheus scrapes: our own numbers, and those that routers read under vLLM's names.
//
// Times and sizes are histograms, fed while the server runs; everything else is read from
// engine and pool at the scrape. The number of series does not depend on how many
// adapters or clients there are: adapters' names are the text of one series. Tenants have
// series of their own up to kTenantTotalsMax, and share one beyond.
// Thread-safe; Observe never waits for a scrape for long.
#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "server/api/gateway.h"
#include "server/engine/request.h"

namespace lorica {

inline constexpr int64_t kAdapterNamesBytesMax = 64 << 10;  // of one label

// What does not change, and what the gateway does not know.
struct MetricsFacts {
  std::string version;
  std::string model;
  std::string device;
  int64_t block_bytes = 0;
  int32_t arena_blocks = 0;
  int32_t running_max = 0;
  std::function<int64_t()> generation_tenants{};  // of whom something runs over HTTP; null: unknown
};

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // Observations before it are the warm-up's, and nobody's.
  void Start();
  void ObserveEnd(const FinishEvent& event);
  void ObserveStep(absl::Time began, absl::Duration took, int64_t rows);

  // The exposition. `with_names`: whether adapters' and tenants' names may be told.
  std::string Text(const MetricsFacts& facts, Gateway& gateway, bool serving, bool with_names);

 private:
  class Page;
  struct Histograms;
  static void AddEngine(const EngineStats& stats, Page* page);
  static void AddTenants(const Accounts& accounts, Page* page);
  static void AddPool(const PoolStats& stats, const std::optional<RemoteStats>& fetches,
                      Page* page);
  static void AddFetches(const RemoteStats& stats, Page* page);
  static void AddHeld(const MetricsFacts& facts, Gateway& gateway, Page* page);
  static void AddGrammars(const GrammarStats& stats, Page* page);
  void AddForRouters(const MetricsFacts& facts, Gateway& gateway, bool with_names, Page* page);
  void AddHistograms(Page* page) const;

  const std::unique_ptr<Histograms> histograms_;
  std::atomic<int64_t> started_ns_{std::numeric_limits<int64_t>::max()};  // Unix time
  std::atomic<int64_t> last_update_ms_{0};
};

}  // namespace lorica
