#include "server/api/running_answer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/adapter_fault.h"
#include "adapters/hub/quoted.h"
#include "adapters/hub/retry_delay.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {}  // namespace

// The engine knows neither what clients call an adapter nor which field they gave it.
absl::Status AsClientsSee(const absl::Status& status, const std::vector<AdapterUse>& adapters) {
  if (absl::IsInvalidArgument(status) && !FieldOf(status)) {
    absl::Status named = status;
    SetField(&named, status.message().substr(0, status.message().find(' ')));
    return named;
  }
  if (!IsAdapterFault(status) || adapters.empty()) return status;
  std::vector<std::string> ids;
  for (const AdapterUse& one : adapters) {
    if (absl::StrContains(status.message(), Quoted(one.adapter_id))) return status;
    ids.push_back(one.adapter_id);
  }
  return WithText(status, absl::StrCat(ids.size() == 1 ? "adapter " : "one of the adapters ",
                                       QuotedList(ids), ": ", status.message()));
}

RunningAnswer::RunningAnswer(AnswerOptions options, RequestControl* control)
    : control_(control),
      end_ids_(std::move(options.end_ids)),
      charge_(std::move(options.charge)),
      include_stop_(options.include_stop),
      max_tokens_(options.max_tokens),
      prompt_alone_(options.prompt_alone),
      stop_(std::move(options.stop)) {
  if (options.tokenizer != nullptr) {
    detokenizer_ = std::make_unique<Detokenizer>(options.tokenizer, options.skip_special_tokens);
  }
}

RunningAnswer::~RunningAnswer() {
  if (finish_) Bill(*finish_, finish_->completion_tokens);
}

void RunningAnswer::Bill(const FinishEvent& finish, int32_t completion_tokens) const {
  if (charge_ == nullptr) return;
  if (finish.prompt_tokens == 0) return charge_->Bill({});  // nothing was computed
  charge_->Bill({.requests = 1,
                 .prompt_tokens = finish.prompt_tokens,
                 .completion_tokens = prompt_alone_ ? 0 : completion_tokens,
                 .cached_tokens = finish.cached_tokens});
}

void RunningAnswer::SetAdapters(std::vector<AdapterUse> adapters) {
  absl::MutexLock lock(&mutex_);
  adapters_ = std::move(adapters);
}

void RunningAnswer::Admitted(RequestId id) {
  absl::MutexLock lock(&mutex_);
  id_ = id;
  admitted_ = true;
  if (cancelled_) control_->Cancel(id_);
  if (paused_) control_->Pause(id_);
}

bool RunningAnswer::HasSomething() const {
  return !pending_.empty() || (finish_.has_value() && !ended_);
}

std::function<void()> RunningAnswer::TakeReady() {
  return HasSomething() ? std::exchange(ready_, nullptr) : nullptr;
}

void RunningAnswer::OnTokens(const TokenEvent& event) {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mutex_);
    if (stop_found_) return;
    if (!event.prompt.empty()) prompt_ = event.prompt;
    if (prompt_alone_) return;  // its end follows
    if (charge_ != nullptr) charge_->Tokens(std::ssize(event.tokens));
    pending_.insert(pending_.end(), event.tokens.begin(), event.tokens.end());
    if (!paused_ && pending_.size() > kPendingTokensMax) {
      paused_ = true;
      if (admitted_) control_->Pause(id_);
    }
    ready = TakeReady();
  }
  if (ready) ready();
}

void RunningAnswer::OnFinish(const FinishEvent& event) { TakeFinish(event, /*refused=*/false); }

bool RunningAnswer::Refuse(const absl::Status& status) {
  return TakeFinish({status}, /*refused=*/true);
}

bool RunningAnswer::TakeFinish(const FinishEvent& event, bool refused) {
  if (charge_ != nullptr) charge_->End();
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mutex_);
    if (finish_) return false;
    finish_ = event;
    refused_ = refused;
    ready = TakeReady();
  }
  if (ready) ready();
  return true;
}

bool RunningAnswer::Take(AnswerChunk* chunk, std::optional<AnswerEnd>* end) {
  absl::MutexLock reader(&reader_mutex_);
  std::vector<Token> tokens;
  std::optional<FinishEvent> finish;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_ || !HasSomething()) return false;
    tokens.swap(pending_);
    chunk->prompt = std::exchange(prompt_, {});
    finish = finish_;
    waiting_since_.reset();
    if (paused_ && !too_slow_) {
      paused_ = false;
      control_->Resume(id_);
    }
  }
  for (Token& token : tokens) {
    if (stop_.stopped()) break;
    Append(std::move(token), chunk);
  }
  if (finish) {
    if (finish->status.ok()) Flush(chunk);
    *end = MakeEnd(*finish);
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  } else if (stop_.stopped()) {
    FoundStop();
  }
  return !chunk->tokens.empty() || !chunk->text.empty() || end->has_value();
}

void RunningAnswer::Append(Token token, AnswerChunk* chunk) {
  ++delivered_tokens_;
  if (detokenizer_ != nullptr && !end_ids_.contains(token.id)) {
    AppendText(detokenizer_->Push(token.id), chunk);
  }
  chunk->last = end_ids_.contains(token.id) || stop_.stopped() || delivered_tokens_ == max_tokens_;
  chunk->tokens.push_back(std::move(token));
}

void RunningAnswer::AppendText(const std::string& text, AnswerChunk* chunk) {
  if (stop_.stopped()) return;
  chunk->text += stop_.Push(text);
  if (include_stop_) chunk->text += stop_.found();
}

void RunningAnswer::Flush(AnswerChunk* chunk) {
  if (detokenizer_ == nullptr || stop_.stopped()) return;
  AppendText(detokenizer_->Finish(), chunk);
  chunk->text += stop_.Finish();
}

void RunningAnswer::FoundStop() {
  absl::MutexLock lock(&mutex_);
  if (std::exchange(stop_found_, true)) return;
  pending_.clear();
  if (!finish_) control_->Finish(id_, StopReason::kStopString);
}

AnswerEnd RunningAnswer::MakeEnd(const FinishEvent& finish) {
  AnswerEnd end;
  end.status = finish.status;
  end.reason = prompt_alone_ && finish.status.ok() ? StopReason::kLength : finish.reason;
  end.prompt_tokens = finish.prompt_tokens;
  end.completion_tokens = delivered_tokens_;
  Bill(finish, delivered_tokens_);
  end.cached_tokens = finish.cached_tokens;
  end.timings = finish.timings;
  if (stop_.stopped()) {  // complete, whatever happened to the request afterwards
    end.status = absl::OkStatus();
    end.reason = StopReason::kStopString;
  }
  absl::MutexLock lock(&mutex_);
  end.adapters = adapters_;
  end.refused = refused_;
  if (too_slow_ && !end.status.ok()) {
    end.status = absl::ResourceExhaustedError(absl::StrCat("the answer was not read for ",
                                                           absl::FormatDuration(kSlowReaderLimit),
                                                           "; read streams as they come"));
  }
  if (!end.refused) end.status = AsClientsSee(end.status, adapters_);
  return end;
}

void RunningAnswer::NotifyWhenReady(std::function<void()> ready) {
  {
    absl::MutexLock lock(&mutex_);
    if (!HasSomething()) {
      ready_ = std::move(ready);
      return;
    }
  }
  ready();
}

void RunningAnswer::NotifyWhenStalled(std::function<void()> stalled) {
  absl::MutexLock lock(&mutex_);
  stalled_ = std::move(stalled);
}

void RunningAnswer::Cancel() {
  {
    absl::MutexLock lock(&mutex_);
    if (finish_) return;
    if (admitted_) return control_->Cancel(id_);
    cancelled_ = true;
  }
  TakeFinish({absl::CancelledError("the client cancelled the call")}, /*refused=*/false);
}

void RunningAnswer::CheckStalled(absl::Time now) {
  std::function<void()> stalled;
  {
    absl::MutexLock lock(&mutex_);
    if (!HasSomething() || too_slow_) return;
    if (!waiting_since_) waiting_since_ = now;
    if (now - *waiting_since_ < kSlowReaderLimit) return;
    too_slow_ = true;
    if (!finish_) control_->Cancel(id_);
    stalled = std::exchange(stalled_, nullptr);
  }
  if (stalled) stalled();
}

bool RunningAnswer::finished() const {
  absl::MutexLock lock(&mutex_);
  return finish_.has_value();
}

bool RunningAnswer::ended() const {
  absl::MutexLock lock(&mutex_);
  return ended_;
}

}  // namespace lorica
