// The use cases in plain structs: what gRPC and HTTP both translate to.
//
// Generate checks cheapest first, resolves the adapters to generations, renders and
// tokenises, and submits to the engine, where a call waits while its response format is
// compiled; a call whose adapter has to be fetched first waits
// for it outside the engine, and so does one whose adapter is to be hashed first. Blocking work
// (templates, tokenising) runs on the caller's thread, which is one of the bounded work pool's,
// never a transport's event thread. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "adapters/adapter_catalog.h"
#include "adapters/adapter_pool.h"
#include "adapters/hub/steady_now.h"
#include "adapters/merge_formulas.h"
#include "server/api/accounts.h"
#include "server/api/adapter_names.h"
#include "server/api/tenants.h"
#include "server/engine/engine.h"
#include "server/grammar/grammar_store.h"
#include "server/grammar/response_format.h"
#include "server/text/chat_template.h"
#include "server/text/tokenizer.h"

namespace lorica {

inline constexpr int kStopStringsMax = 16;
inline constexpr int kStopStringBytesMax = 256;
inline constexpr int kStopTokensMax = 64;
inline constexpr int kSamplesMax = 16;
inline constexpr int kLogitBiasMax = 1024;
inline constexpr int kMaxTokensDefault = 256;
inline constexpr int64_t kPromptBytesMax = 4 << 20;
inline constexpr int kRoleBytesMax = 64;
inline constexpr int64_t kToolsBytesMax = 256 << 10;  // as JSON
inline constexpr double kTemperatureMax = 100.0;
// Below this the largest logit has all the probability: taken as greedy.
inline constexpr double kTemperatureGreedy = 1e-4;
inline constexpr double kRepetitionPenaltyMin = 0.01;
inline constexpr double kPenaltyMax = 100.0;
inline constexpr double kBiasMax = 100.0;
// Log-probabilities of a prompt: its tokens times (1 + prompt_logprobs).
inline constexpr int64_t kPromptLogprobsMax = 65536;
inline constexpr double kAdapterWeightMax = 100.0;
// Longest life of a call, whatever deadline its client set.
inline constexpr absl::Duration kGenerateDeadlineMax = absl::Minutes(10);

struct AdapterChoice {
  std::string adapter_id;
  double weight = 1.0;
};

// Everything a client can ask for, after the transport's translation. Optional fields
// that are absent take the defaults of proto/lorica/v1/inference.proto.
struct GenerateCall {
  Credentials credentials;
  std::vector<std::string> adapter_headers;  // every x-adapter-id that came
  std::string adapter_id;
  std::vector<AdapterChoice> adapters;
  bool adapter_by_location = false;  // adapter_id is a place in a bucket: s3://bucket/name
  std::string hub_token;             // for adapters that must be fetched; never logged
  std::optional<MergeRule> merge;    // of `adapters`, to one adapter, instead of a mix
  std::optional<std::string> prompt;
  std::vector<ChatTurn> messages;
  std::string tools;  // with messages: what their template calls so, a JSON array
  std::vector<int32_t> token_ids;
  std::optional<int32_t> max_tokens;               // 0: prompt_logprobs alone
  int32_t max_tokens_default = kMaxTokensDefault;  // where it is absent; cut to the context
  std::optional<int32_t> truncate;                 // keep this many prompt tokens, the last
  std::optional<double> temperature;
  std::optional<int32_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::pair<int32_t, double>> logit_bias;
  std::optional<int32_t> logprobs;
  std::optional<int32_t> prompt_logprobs;
  std::vector<std::string> stop;
  bool include_stop = false;  // the stop string that ends the answer is part of its text
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  std::optional<ResponseFormat> format;
  bool skip_special_tokens = true;
  absl::Time deadline = absl::InfiniteFuture();
};

// The adapters that a call names, in its fields or its headers.
std::vector<std::string> AdapterIdsOf(const GenerateCall& call);
// The same, joined by commas.
std::string AdaptersOf(const GenerateCall& call);

struct AdapterUse {
  std::string adapter_id;
  std::string generation;
  double weight = 1.0;
};

// One piece of an answer, text already cut to whole characters and stop strings.
struct AnswerChunk {
  std::vector<TokenEvent::Token> prompt;  // as in TokenEvent
  std::vector<TokenEvent::Token> tokens;
  std::string text;
  bool last = false;  // no token comes after these; the end may still be on its way
};

struct AnswerEnd {
  absl::Status status;
  bool refused = false;  // it never came to the engine: an adapter was not to be had, say
  StopReason reason = StopReason::kNone;
  std::vector<AdapterUse> adapters;  // empty = base
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;
  RequestTimings timings;
};

// One line of the log about an answer that failed; none where its client left. For whoever takes
// the end, who alone knows what was called: a method of gRPC, a path.
void LogEnd(const std::string& method, const std::string& adapter_ids, const AnswerEnd& end);

// A running answer. Chunks wait here until the transport takes them: while nobody
// takes, tokens coalesce; beyond kPendingTokensMax the request is paused, and after
// kSlowReaderLimit cancelled. Thread-safe.
inline constexpr int kPendingTokensMax = 64;
inline constexpr absl::Duration kSlowReaderLimit = absl::Seconds(30);

class Answer {
 public:
  virtual ~Answer() = default;
  // Takes what is there. True: `chunk` has something or the answer has ended.
  virtual bool Take(AnswerChunk* chunk, std::optional<AnswerEnd>* end) = 0;
  // `ready` runs once, soon, on any thread, when Take may return true; must not block.
  virtual void NotifyWhenReady(std::function<void()> ready) = 0;
  // `stalled` runs at most once, on any thread, when something has waited to be taken
  // for kSlowReaderLimit: the transport should drop its stream. Must not block.
  virtual void NotifyWhenStalled(std::function<void()> stalled) = 0;
  // Idempotent; resources are free after the next step.
  virtual void Cancel() = 0;
};

// Calls that may wait for adapters to be fetched, outside the engine's own queue.
struct WaitingLimits {
  int64_t requests_max = 1024;
  int64_t tokens_max = 4 << 20;  // prompts and answers together
  int tenant_parts = 1;          // one tenant's calls may take one of so many parts of these
};

struct GatewayLimits {
  int64_t context_tokens = 0;
  int32_t vocabulary = 0;  // valid input ids are below this
  std::vector<int32_t> end_tokens;
  std::string base_name;  // as an adapter id it means the base model
  WaitingLimits waiting;  // for fetches; as many again for looks on this machine
  std::shared_ptr<const Tenants> tenants = std::make_shared<Tenants>();
  std::function<absl::Time()> clock = SteadyNow;
};

class RunningAnswer;
class WaitingRoom;

class Gateway {
 public:
  // tokenizer and chat_template may be null: then text is FailedPrecondition, and so are
  // response formats where grammars is null.
  Gateway(GatewayLimits limits, Engine* engine, AdapterCatalog* catalog, AdapterPool* pool,
          const Tokenizer* tokenizer, const ChatTemplate* chat_template,
          GrammarStore* grammars = nullptr);
  ~Gateway();

  // Whose call it is: the first thing every face asks, for every call it takes. Generate
  // asks by itself. Unauthenticated: no key that counts.
  absl::StatusOr<TenantPtr> Authenticate(const Credentials& credentials) const;
  bool needs_keys() const { return limits_.tenants->needs_keys(); }

  absl::StatusOr<std::shared_ptr<Answer>> Generate(const GenerateCall& call);
  // The server's own calls, and those of whom Authenticate has named already.
  // ResourceExhausted with a time to wait: the tenant's quotas are used up.
  absl::StatusOr<std::shared_ptr<Answer>> GenerateFor(const TenantPtr& tenant,
                                                      const GenerateCall& call);
  // `count` answers, 1 to kSamplesMax, to the same call, all or none of them. The seed of
  // answer i is the call's seed + i, or chosen anew for each. Counts as one refusal.
  absl::StatusOr<std::vector<std::shared_ptr<Answer>>> GenerateSamples(const TenantPtr& tenant,
                                                                       const GenerateCall& call,
                                                                       int count);

  // Who finds the queue full need not be listened to: the faces ask before they read, parse or
  // hand over a call that generates. Unavailable: it is, or the server drains; counts as a refusal.
  absl::Status CheckRoom(const Tenant& tenant);

  struct Tokenized {
    std::vector<int32_t> token_ids;
    std::vector<std::string> tokens;
  };
  // `tokens` is filled with each token's text if `with_text`.
  absl::StatusOr<Tokenized> Tokenize(const std::optional<std::string>& prompt,
                                     const std::vector<ChatTurn>& messages, bool with_text = true,
                                     std::string_view tools = "") const;

  // Cancels answers that nobody has read for kSlowReaderLimit. To be called about
  // once a second, also while nothing runs.
  void Tick(absl::Time now);
  // From now on Generate is Unavailable; running answers go on.
  void StartDrain();
  // Calls that wait for adapters to be fetched.
  int64_t waiting_calls() const;
  // Answers whose end has not been taken yet.
  int64_t open_answers() const;
  // Of a call that a face refuses itself.
  void CountRefusal() { refused_count_.fetch_add(1, std::memory_order_relaxed); }
  // Those, and what Generate refused.
  int64_t refused_count() const { return refused_count_.load(std::memory_order_relaxed); }

  // What tenants used.
  Accounts& accounts() const { return *accounts_; }

  const GatewayLimits& limits() const { return limits_; }
  const Tokenizer* tokenizer() const { return tokenizer_; }  // null: token ids only
  AdapterCatalog* catalog() const { return catalog_; }
  AdapterPool* pool() const { return pool_; }
  Engine* engine() const { return engine_; }
  GrammarStore* grammars() const { return grammars_; }  // null: no response formats
  // What operators' charts call adapters.
  AdapterNames* names() { return &names_; }

 private:
  class EngineControl;
  struct Adapters;
  struct Mix;
  struct Prepared;

  using Answers = std::vector<std::shared_ptr<Answer>>;
  using Charges = std::vector<std::shared_ptr<Charge>>;
  absl::Status CheckDrain() const;
  absl::StatusOr<Answers> Admit(const TenantPtr& tenant, const GenerateCall& call, int count);
  absl::StatusOr<Charges> EnterAll(const TenantPtr& tenant, int count);
  absl::StatusOr<Adapters> FindAdapters(const Tenant& tenant, const GenerateCall& call);
  absl::StatusOr<Adapters> FindMerge(const Tenant& tenant, const GenerateCall& call,
                                     const std::vector<AdapterChoice>& parts);
  absl::StatusOr<Mix> MixOf(const std::vector<AdapterChoice>& choices,
                            const std::vector<GenerationPtr>& generations);
  absl::StatusOr<std::vector<int32_t>> PromptTokens(const GenerateCall& call) const;
  absl::StatusOr<Prepared> Prepare(const Tenant& tenant, const GenerateCall& call,
                                   std::vector<int32_t> prompt, std::shared_ptr<Charge> charge,
                                   absl::Time now) const;
  absl::StatusOr<std::shared_ptr<TokenConstraint>> ConstraintOf(const Tenant& tenant,
                                                                const GenerateCall& call) const;
  absl::Status Start(Prepared& prepared, const Mix& mix);
  std::unique_ptr<WaitingRoom> MakeWaitingRoom();
  absl::Status Wait(Prepared& prepared, const Adapters& adapters);

  const GatewayLimits limits_;
  const std::shared_ptr<Accounts> accounts_;
  Engine* const engine_;
  AdapterCatalog* const catalog_;
  AdapterPool* const pool_;
  const Tokenizer* const tokenizer_;
  const ChatTemplate* const chat_template_;
  GrammarStore* const grammars_;
  const std::unique_ptr<EngineControl> control_;
  // A hub that hangs fills the first; what is looked at on this machine alone waits in the second.
  const std::unique_ptr<WaitingRoom> fetches_;
  const std::unique_ptr<WaitingRoom> looks_;
  AdapterNames names_;
  std::atomic<bool> draining_{false};
  std::atomic<int64_t> refused_count_{0};
  mutable absl::Mutex mutex_;
  // Expired ones are dropped by Tick.
  std::vector<std::weak_ptr<RunningAnswer>> answers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace lorica
