#include "server/api/gateway.h"

#include <algorithm>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "server/api/field_error.h"
#include "server/api/refusal_log.h"
#include "server/api/request_checks.h"
#include "server/api/running_answer.h"
#include "server/api/waiting_room.h"

namespace lorica {
namespace {

// Seeds of calls that name none: unlike each other, not secret.
uint64_t NextSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

absl::Status NoText(absl::string_view what, absl::string_view instead = "token_ids") {
  return absl::FailedPreconditionError(
      absl::StrCat("this model came without ", what, "; send ", instead, " instead"));
}

// What became of a response format, as clients should see it.
absl::Status FormatFault(const absl::Status& status) {
  if (absl::IsUnavailable(status)) return TryLater(status.message());
  return absl::IsInvalidArgument(status) ? FieldError("response_format", status.message()) : status;
}

std::string OneTokenText(const Tokenizer& tokenizer, int32_t id) {
  const int32_t ids[] = {id};
  return Decode(tokenizer, ids, /*skip_special_tokens=*/false);
}

}  // namespace

std::vector<std::string> AdapterIdsOf(const GenerateCall& call) {
  if (!call.adapter_id.empty()) return {call.adapter_id};
  if (call.adapters.empty()) return call.adapter_headers;
  std::vector<std::string> ids;
  for (const AdapterChoice& one : call.adapters) ids.push_back(one.adapter_id);
  return ids;
}

std::string AdaptersOf(const GenerateCall& call) { return absl::StrJoin(AdapterIdsOf(call), ","); }

void LogEnd(const std::string& method, const std::string& adapter_ids, const AnswerEnd& end) {
  if (end.status.ok() || absl::IsCancelled(end.status)) return;
  (end.refused ? LogRefusal : LogFailure)(method, adapter_ids, end.status, SteadyNow());
}

class Gateway::EngineControl final : public RequestControl {
 public:
  explicit EngineControl(Engine* engine) : engine_(engine) {}
  void Cancel(RequestId id) override { engine_->Cancel(id); }
  void Finish(RequestId id, StopReason reason) override { engine_->Finish(id, reason); }
  void Pause(RequestId id) override { engine_->Pause(id); }
  void Resume(RequestId id) override { engine_->Resume(id); }

 private:
  Engine* const engine_;
};

// What a call names, and what of it is here.
struct Gateway::Adapters {
  std::vector<AdapterChoice> choices;
  std::vector<FoundAdapter> found;

  bool here() const {
    return std::all_of(found.begin(), found.end(),
                       [](const FoundAdapter& one) { return one.ticket == nullptr; });
  }
  std::vector<GenerationPtr> generations() const {
    std::vector<GenerationPtr> list;
    for (const FoundAdapter& one : found) list.push_back(one.generation);
    return list;
  }
};

// What a call's adapters came to: all of them to report, those that count to run.
struct Gateway::Mix {
  std::vector<AdapterUse> uses;
  std::vector<MixTerm> terms;
};

// All of a call but its adapters.
struct Gateway::Prepared {
  std::shared_ptr<RunningAnswer> answer;
  std::shared_ptr<Charge> charge;
  EngineRequest request;
};

Gateway::Gateway(GatewayLimits limits, Engine* engine, AdapterCatalog* catalog, AdapterPool* pool,
                 const Tokenizer* tokenizer, const ChatTemplate* chat_template,
                 GrammarStore* grammars)
    : limits_(std::move(limits)),
      accounts_(std::make_shared<Accounts>(limits_.clock)),
      engine_(engine),
      catalog_(catalog),
      pool_(pool),
      tokenizer_(tokenizer),
      chat_template_(chat_template),
      grammars_(grammars),
      control_(std::make_unique<EngineControl>(engine)),
      fetches_(MakeWaitingRoom()),
      looks_(MakeWaitingRoom()) {}

Gateway::~Gateway() = default;

std::unique_ptr<WaitingRoom> Gateway::MakeWaitingRoom() {
  return std::make_unique<WaitingRoom>(limits_.waiting, [this](const absl::Status&) {
    refused_count_.fetch_add(1, std::memory_order_relaxed);
  });
}

absl::StatusOr<TenantPtr> Gateway::Authenticate(const Credentials& credentials) const {
  return limits_.tenants->Authenticate(credentials, absl::Now());  // keys expire by the wall clock
}

absl::StatusOr<std::shared_ptr<Answer>> Gateway::Generate(const GenerateCall& call) {
  const absl::StatusOr<TenantPtr> tenant = Authenticate(call.credentials);
  if (tenant.ok()) return GenerateFor(*tenant, call);
  refused_count_.fetch_add(1, std::memory_order_relaxed);
  return tenant.status();
}

absl::StatusOr<std::shared_ptr<Answer>> Gateway::GenerateFor(const TenantPtr& tenant,
                                                             const GenerateCall& call) {
  auto answers = GenerateSamples(tenant, call, 1);
  if (!answers.ok()) return answers.status();
  return std::move(answers->front());
}

absl::StatusOr<Gateway::Answers> Gateway::GenerateSamples(const TenantPtr& tenant,
                                                          const GenerateCall& call, int count) {
  auto answers = Admit(tenant, call, count);
  if (!answers.ok()) refused_count_.fetch_add(1, std::memory_order_relaxed);
  return answers;
}

absl::Status Gateway::CheckDrain() const {
  if (!draining_.load(std::memory_order_relaxed)) return absl::OkStatus();
  return GoElsewhere("the server is shutting down; send the call to another one");
}

absl::Status Gateway::CheckRoom(const Tenant& tenant) {
  absl::Status status = CheckDrain();
  if (status.ok()) status = engine_->CheckRoom(tenant.name);
  if (!status.ok()) CountRefusal();
  return status;
}

absl::StatusOr<Gateway::Answers> Gateway::Admit(const TenantPtr& tenant, const GenerateCall& call,
                                                int count) {
  const absl::Time now = limits_.clock();
  if (call.deadline <= now) {
    return absl::DeadlineExceededError("the deadline had passed when the call arrived");
  }
  if (absl::Status s = CheckDrain(); !s.ok()) return s;
  if (count < 1 || count > kSamplesMax) {
    return FieldError("n", absl::StrCat("must be from 1 to ", kSamplesMax, ", not ", count));
  }
  const absl::Status fields = CheckFields(call, limits_);
  if (!fields.ok()) return fields;
  absl::StatusOr<Charges> charges = EnterAll(tenant, count);
  if (!charges.ok()) return charges.status();
  absl::StatusOr<Adapters> adapters = FindAdapters(*tenant, call);
  if (!adapters.ok()) return adapters.status();
  absl::StatusOr<Mix> mix = Mix();
  if (adapters->here()) mix = MixOf(adapters->choices, adapters->generations());
  if (!mix.ok()) return mix.status();
  absl::StatusOr<std::vector<int32_t>> prompt = PromptTokens(call);
  if (!prompt.ok()) return prompt.status();
  if (call.truncate && static_cast<int64_t>(prompt->size()) > *call.truncate) {
    prompt->erase(prompt->begin(), prompt->end() - *call.truncate);
  }
  Answers answers;
  GenerateCall sample = call;
  for (int i = 0; i < count; ++i) {
    if (call.seed) sample.seed = *call.seed + i;
    absl::StatusOr<Prepared> prepared =
        Prepare(*tenant, sample, *prompt, std::move((*charges)[i]), now);
    absl::Status status = prepared.status();
    if (status.ok()) {
      status = adapters->here() ? Start(*prepared, *mix) : Wait(*prepared, *adapters);
    }
    if (!status.ok()) {
      for (const auto& earlier : answers) earlier->Cancel();
      return status;
    }
    answers.push_back(prepared->answer);
    absl::MutexLock lock(&mutex_);
    answers_.push_back(prepared->answer);
  }
  return answers;
}

absl::StatusOr<Gateway::Charges> Gateway::EnterAll(const TenantPtr& tenant, int count) {
  Charges charges;
  for (int i = 0; i < count; ++i) {
    auto charge = accounts_->Enter(tenant);
    if (!charge.ok()) return charge.status();
    charges.push_back(*std::move(charge));
  }
  return charges;
}

absl::StatusOr<Gateway::Adapters> Gateway::FindAdapters(const Tenant& tenant,
                                                        const GenerateCall& call) {
  auto choices = ChooseAdapters(call, limits_.base_name);
  if (!choices.ok()) return choices.status();
  if (call.merge) return FindMerge(tenant, call, *choices);
  Adapters adapters{*std::move(choices)};
  for (const AdapterChoice& choice : adapters.choices) {
    auto found = catalog_->Find(tenant.name, choice.adapter_id, call.hub_token);
    if (!found.ok()) return found.status();
    adapters.found.push_back(*std::move(found));
  }
  return adapters;
}

absl::StatusOr<Gateway::Adapters> Gateway::FindMerge(const Tenant& tenant, const GenerateCall& call,
                                                     const std::vector<AdapterChoice>& parts) {
  MergeChoice choice{*call.merge, {}};
  for (const AdapterChoice& part : parts) choice.parts.emplace_back(part.adapter_id, part.weight);
  auto found = catalog_->FindMerge(tenant.name, choice, call.hub_token);
  if (!found.ok()) return found.status();
  return Adapters{{{.adapter_id = MergeText(choice)}}, {*std::move(found)}};
}

absl::StatusOr<Gateway::Mix> Gateway::MixOf(const std::vector<AdapterChoice>& choices,
                                            const std::vector<GenerationPtr>& generations) {
  Mix mix;
  for (size_t i = 0; i < choices.size(); ++i) {
    const AdapterChoice& choice = choices[i];
    names_.Note(generations[i]->digest, choice.adapter_id);
    mix.uses.push_back({choice.adapter_id, generations[i]->digest, choice.weight});
    if (choice.weight == 0.0) continue;
    mix.terms.push_back({generations[i], static_cast<float>(choice.weight)});
  }
  const bool plain = mix.terms.size() == 1 && mix.terms[0].weight == 1.0f;
  for (const MixTerm& term : mix.terms) {
    if (plain || !term.generation->config.use_dora) continue;
    return FieldError("adapters",
                      "hold a DoRA adapter, whose norm fits it alone at weight 1; name it by "
                      "itself or leave it out of the mix");
  }
  return mix;
}

absl::StatusOr<std::vector<int32_t>> Gateway::PromptTokens(const GenerateCall& call) const {
  if (!call.stop.empty() && tokenizer_ == nullptr) return NoText("a tokenizer, which stop needs");
  if (!call.token_ids.empty()) return call.token_ids;
  auto tokenized = Tokenize(call.prompt, call.messages, /*with_text=*/false, call.tools);
  if (!tokenized.ok()) return tokenized.status();
  return std::move(tokenized->token_ids);
}

absl::StatusOr<Gateway::Prepared> Gateway::Prepare(const Tenant& tenant, const GenerateCall& call,
                                                   std::vector<int32_t> prompt,
                                                   std::shared_ptr<Charge> charge,
                                                   absl::Time now) const {
  const int64_t room = limits_.context_tokens - static_cast<int64_t>(prompt.size());
  const int64_t wanted = call.max_tokens.value_or(std::min<int64_t>(call.max_tokens_default, room));
  if (room < 1 || wanted > room) {
    return FieldError(call.max_tokens && room >= 1 ? "max_tokens" : "prompt",
                      absl::StrCat("does not fit: the prompt has ", prompt.size(), " tokens, ",
                                   std::max<int64_t>(1, call.max_tokens.value_or(1)),
                                   " more are to be generated, and ", "the context holds ",
                                   limits_.context_tokens));
  }
  const absl::Status scores = CheckPromptLogprobs(call, std::ssize(prompt));
  if (!scores.ok()) return scores;
  auto constraint = ConstraintOf(tenant, call);
  if (!constraint.ok()) return constraint.status();
  AnswerOptions options{tokenizer_, call.skip_special_tokens, call.stop, call.include_stop};
  options.end_ids.insert(call.stop_token_ids.begin(), call.stop_token_ids.end());
  if (!call.ignore_eos) {
    options.end_ids.insert(limits_.end_tokens.begin(), limits_.end_tokens.end());
  }
  options.max_tokens = static_cast<int32_t>(wanted);
  options.prompt_alone = wanted == 0;
  options.charge = charge;
  auto answer = std::make_shared<RunningAnswer>(std::move(options), control_.get());

  EngineRequest request;
  request.tenant = tenant.name;
  request.tenant_weight = tenant.weight;
  request.prompt = std::move(prompt);
  request.max_tokens = static_cast<int32_t>(std::max<int64_t>(wanted, 1));
  request.params = ToSampleParams(call, NextSeed());
  request.prompt_logprobs = call.prompt_logprobs.value_or(-1);
  request.logit_bias = ToTokenBias(call);
  request.end_tokens = limits_.end_tokens;
  request.stop_token_ids = call.stop_token_ids;
  request.ignore_end = call.ignore_eos;
  request.constraint = *std::move(constraint);
  request.deadline = std::min(call.deadline, now + kGenerateDeadlineMax);
  request.sink = answer;
  return Prepared{std::move(answer), std::move(charge), std::move(request)};
}

absl::StatusOr<std::shared_ptr<TokenConstraint>> Gateway::ConstraintOf(
    const Tenant& tenant, const GenerateCall& call) const {
  if (!call.format) return std::shared_ptr<TokenConstraint>();
  if (grammars_ == nullptr) {
    return absl::FailedPreconditionError(
        "this server takes no response_format: its model came without a tokenizer or an end "
        "token, or lorica-grammar is not beside loricad");
  }
  auto constraint = grammars_->Constrain(
      tenant.name, *call.format, [engine = engine_] { engine->Wake(); }, FormatFault);
  return constraint.ok() ? constraint : FormatFault(constraint.status());
}

// Once for each: the request moves on.
absl::Status Gateway::Start(Prepared& prepared, const Mix& mix) {
  std::vector<std::string> generations;
  for (const AdapterUse& use : mix.uses) generations.push_back(use.generation);
  prepared.charge->SetGeneration(BillKey(std::move(generations)));
  prepared.answer->SetAdapters(mix.uses);
  const int64_t prompt_tokens = std::ssize(prepared.request.prompt);
  prepared.request.mix = mix.terms;
  const absl::StatusOr<RequestId> id =
      engine_->Submit(std::move(prepared.request), limits_.clock());
  if (!id.ok()) return id.status();
  prepared.charge->Tokens(prompt_tokens);
  prepared.answer->Admitted(*id);
  return absl::OkStatus();
}

absl::Status Gateway::Wait(Prepared& prepared, const Adapters& adapters) {
  WaitingCall call{.tenant = prepared.request.tenant};
  call.adapters = adapters.found;
  call.answer = prepared.answer;
  call.tokens = std::ssize(prepared.request.prompt) + prepared.request.max_tokens;
  call.deadline = prepared.request.deadline;
  auto rest = std::make_shared<Prepared>(
      Prepared{prepared.answer, prepared.charge, std::move(prepared.request)});
  call.go_on = [this, rest,
                choices = adapters.choices](const std::vector<GenerationPtr>& generations) {
    const absl::StatusOr<Mix> mix = MixOf(choices, generations);
    return mix.ok() ? Start(*rest, *mix) : mix.status();
  };
  const bool fetches = std::any_of(
      call.adapters.begin(), call.adapters.end(),
      [](const FoundAdapter& found) { return found.ticket != nullptr && !found.is_local; });
  return (fetches ? fetches_ : looks_)->Enter(std::move(call));
}

absl::StatusOr<Gateway::Tokenized> Gateway::Tokenize(const std::optional<std::string>& prompt,
                                                     const std::vector<ChatTurn>& messages,
                                                     bool with_text, std::string_view tools) const {
  if (prompt.has_value() == !messages.empty()) {
    return FieldError("prompt", "and messages: give exactly one of the two");
  }
  const absl::Status text = CheckText(prompt, messages);
  if (!text.ok()) return text;
  if (tokenizer_ == nullptr) return NoText("a tokenizer that this server can run");
  Tokenized result;
  if (prompt) {
    const absl::Status status = tokenizer_->Encode(*prompt, true, &result.token_ids);
    if (!status.ok()) return status;
  } else {
    if (chat_template_ == nullptr)
      return NoText("a chat template that this server can run", "prompt or token_ids");
    const auto parts = chat_template_->Render(messages, /*add_generation_prompt=*/true, tools);
    if (!parts.ok()) return parts.status();
    const absl::Status status = tokenizer_->EncodeParts(*parts, &result.token_ids);
    if (!status.ok()) return status;
  }
  if (result.token_ids.empty()) {
    return FieldError(prompt ? "prompt" : "messages", "have no token in this model's vocabulary");
  }
  if (!with_text) return result;
  for (const int32_t id : result.token_ids) {
    result.tokens.push_back(OneTokenText(*tokenizer_, id));
  }
  return result;
}

void Gateway::Tick(absl::Time now) {
  std::vector<std::shared_ptr<RunningAnswer>> live;
  {
    absl::MutexLock lock(&mutex_);
    std::erase_if(answers_, [&live](const std::weak_ptr<RunningAnswer>& weak) {
      auto answer = weak.lock();
      if (answer == nullptr || answer->ended()) return true;
      live.push_back(std::move(answer));
      return false;
    });
  }
  for (const auto& answer : live) answer->CheckStalled(now);
  for (WaitingRoom* room : {fetches_.get(), looks_.get()}) room->Tick(now);
}

void Gateway::StartDrain() {
  draining_.store(true, std::memory_order_relaxed);
  for (WaitingRoom* room : {fetches_.get(), looks_.get()}) {
    room->Close(GoElsewhere("the server is shutting down; send the call to another one"));
  }
  engine_->StartDrain();
}

int64_t Gateway::waiting_calls() const { return fetches_->size() + looks_->size(); }

int64_t Gateway::open_answers() const {
  absl::MutexLock lock(&mutex_);
  return std::count_if(answers_.begin(), answers_.end(), [](const auto& weak) {
    const auto answer = weak.lock();
    return answer != nullptr && !answer->ended();
  });
}

}  // namespace lorica
