#include "server/http/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "server/api/accounts.h"
#include "server/api/field_error.h"
#include "server/http/errors.h"

namespace lorica {

// Which answers have something; outlives the set, for answers may still call.
struct AnswerSet::Signal {
  absl::Mutex mutex;
  std::vector<size_t> ready ABSL_GUARDED_BY(mutex);
};

AnswerSet::AnswerSet(std::vector<std::shared_ptr<Answer>> answers, GenerationRoom::Slot slot)
    : answers_(std::move(answers)),
      slot_(std::move(slot)),
      signal_(std::make_shared<Signal>()),
      ended_(answers_.size()),
      asked_(answers_.size()),
      open_(answers_.size()) {}

AnswerSet::~AnswerSet() {
  for (size_t i = 0; i < answers_.size(); ++i) {
    if (!ended_[i]) answers_[i]->Cancel();
  }
}

bool AnswerSet::TakeSome(const std::function<bool(Piece)>& on_piece, bool* any) {
  for (size_t i = 0; i < answers_.size(); ++i) {
    Piece piece{i};
    if (ended_[i] || asked_[i] || !answers_[i]->Take(&piece.chunk, &piece.end)) continue;
    *any = true;
    if (piece.end) {
      ended_[i] = true;
      --open_;
    }
    if (!on_piece(std::move(piece))) return false;
  }
  return true;
}

bool AnswerSet::Run(Peer& peer, const std::function<bool(Piece)>& on_piece,
                    const std::function<bool()>& on_idle) {
  absl::Time looked = SteadyNow();
  while (open_ > 0) {
    bool any = false;
    if (!TakeSome(on_piece, &any)) return false;
    if (!any && !WaitForSome() && on_idle && !on_idle()) return false;
    const absl::Time now = SteadyNow();
    if (open_ == 0 || now - looked < kGoneInterval) continue;
    looked = now;
    if (peer.gone()) return false;
  }
  return true;
}

bool AnswerSet::WaitForSome() {
  for (size_t i = 0; i < answers_.size(); ++i) {
    if (ended_[i] || asked_[i]) continue;
    asked_[i] = true;
    answers_[i]->NotifyWhenReady([signal = signal_, i] {
      absl::MutexLock lock(&signal->mutex);
      signal->ready.push_back(i);
    });
  }
  std::vector<size_t> ready;
  {
    Signal& signal = *signal_;
    absl::MutexLock lock(&signal.mutex);
    const auto some = [&signal]() ABSL_SHARED_LOCKS_REQUIRED(signal.mutex) {
      return !signal.ready.empty();
    };
    signal.mutex.AwaitWithTimeout(absl::Condition(&some), kGoneInterval);
    ready.swap(signal.ready);
  }
  for (const size_t i : ready) asked_[i] = false;
  return !ready.empty();
}

absl::StatusOr<GenerationRoom::Slot> GenerationRoom::Enter(const std::string& tenant) {
  absl::MutexLock lock(&mutex_);
  if (running_ >= limit_) {
    return TooMuch(
        absl::StrCat("Model is overloaded: ", limit_, " generations run over HTTP; try again"));
  }
  int& own = running_of_[tenant];
  if (own >= part_) {
    return TooMuch(absl::StrCat("Model is overloaded: ", part_,
                                " of this tenant's generations run over HTTP; try again"));
  }
  ++own;
  ++running_;
  return Slot(this, tenant);
}

int64_t GenerationRoom::tenants() const {
  absl::MutexLock lock(&mutex_);
  return std::ssize(running_of_);
}

void GenerationRoom::Leave(const std::string& tenant) {
  absl::MutexLock lock(&mutex_);
  --running_;
  const auto own = running_of_.find(tenant);
  if (--own->second == 0) running_of_.erase(own);
}

namespace {

absl::Status RunOn(WorkPool* pool, const std::function<absl::Status()>& work) {
  absl::Status status;
  absl::Notification done;
  const bool taken = pool->TryRun([&] {
    status = work();
    done.Notify();
  });
  if (!taken) return TryLater("the server has too many calls to look at; try again");
  done.WaitForNotification();
  return status;
}

}  // namespace

absl::Status HttpContext::RunWork(const std::function<absl::Status()>& work) const {
  return RunOn(work_, work);
}

absl::Status HttpContext::RunAdapterWork(const std::function<absl::Status()>& work) const {
  return RunOn(adapter_work_, work);
}

absl::StatusOr<TenantPtr> HttpContext::Authenticate(const HttpRequest& request,
                                                    HttpReply& reply) const {
  auto tenant =
      gateway_->Authenticate({request.Values("authorization"), request.Values("x-tenant-id")});
  if (tenant.ok()) reply.notes().tenant = (*tenant)->name;
  return tenant;
}

absl::StatusOr<std::shared_ptr<AnswerSet>> HttpContext::Generate(
    const HttpRequest& request, absl::Span<const GenerateCall> calls, int count,
    HttpReply& reply) const {
  const std::string adapter = AdaptersOf(calls[0]);
  reply.notes().adapter = adapter;
  const auto tenant = Authenticate(request, reply);
  auto slot = tenant.ok() ? generations_.Enter((*tenant)->name) : tenant.status();
  std::vector<std::shared_ptr<Answer>> answers;
  absl::Status status = slot.status();
  if (status.ok()) status = gateway_->CheckRoom(**tenant);
  if (status.ok()) status = RunWork([&] { return Admit(*tenant, calls, count, &answers); });
  if (status.ok()) return std::make_shared<AnswerSet>(std::move(answers), *std::move(slot));
  for (const auto& answer : answers) answer->Cancel();
  LogRefusalOnce(status, reply);
  return status;
}

absl::Status HttpContext::Admit(const TenantPtr& tenant, absl::Span<const GenerateCall> calls,
                                int count, std::vector<std::shared_ptr<Answer>>* answers) const {
  if (absl::Status s = CheckAtOnce(*tenant, std::ssize(calls) * count); !s.ok()) return s;
  for (const GenerateCall& call : calls) {
    auto admitted = gateway_->GenerateSamples(tenant, call, count);
    if (!admitted.ok()) return admitted.status();
    answers->insert(answers->end(), admitted->begin(), admitted->end());
  }
  return absl::OkStatus();
}

void NoteEnd(const AnswerEnd& end, const std::string& path, AccessNotes& notes) {
  notes.prompt_tokens = std::max<int64_t>(notes.prompt_tokens, end.prompt_tokens);
  notes.completion_tokens += end.completion_tokens;
  if (notes.first_token_ms == 0.0) {
    notes.first_token_ms =
        static_cast<double>(absl::ToInt64Microseconds(end.timings.first_token)) / 1000.0;
  }
  if (end.status.ok()) return;
  notes.code = absl::StatusCodeToString(end.status.code());
  if (!std::exchange(notes.refusal_logged, true)) LogEnd(path, notes.adapter, end);
}

}  // namespace lorica
