#include "server/api/call_pump.h"

#include <utility>

#include "absl/time/time.h"
#include "adapters/hub/steady_now.h"
#include "grpc/support/time.h"
#include "server/api/field_error.h"
#include "server/api/refusal_log.h"
#include "server/api/reset_guard.h"

namespace lorica {

void CallPump::Begin(GenerateCall call) {
  adapter_ids_ = AdaptersOf(call);
  deadline_ = call.deadline;
  auto shared = std::make_shared<GenerateCall>(std::move(call));
  const bool taken = pools_.work->TryRun([self = Share(), shared] { self->Admit(*shared); });
  if (!taken) Refuse(TryLater("the server has too many calls to look at; try again"));
}

void CallPump::Refuse(const absl::Status& status) {
  LogRefusal(method_, adapter_ids_, status, SteadyNow());
  OnRefused(status);
}

void CallPump::Admit(const GenerateCall& call) {
  {
    absl::MutexLock lock(&mutex_);
    if (cancelled_) {
      const absl::Status late = absl::DeadlineExceededError("the deadline passed in the queue");
      if (IsLate()) return Refuse(late);
      return OnRefused(absl::CancelledError("the client cancelled the call"));
    }
  }
  absl::StatusOr<std::shared_ptr<Answer>> answer = gateway_->Generate(call);
  if (!answer.ok()) {
    Refuse(answer.status());
    return;
  }
  (*answer)->NotifyWhenStalled([weak = std::weak_ptr<CallPump>(Share()), pools = pools_] {
    pools.delivery->RunAdmitted([weak] {
      const auto self = weak.lock();
      if (self == nullptr) return;
      LogFailure(self->method_, self->adapter_ids_, absl::CancelledError("nobody reads the answer"),
                 SteadyNow());
      self->OnStalled();
    });
  });
  {
    absl::MutexLock lock(&mutex_);
    answer_ = *answer;
    if (cancelled_) answer_->Cancel();
  }
  Pump();
}

// The client's clock for it starts before ours.
bool CallPump::IsLate() const { return SteadyNow() >= deadline_ - kDeadlineSlack; }

void CallPump::Continue() {
  pools_.delivery->RunAdmitted([self = Share()] { self->Pump(); });
}

void CallPump::CancelCall() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (answer_ != nullptr) answer_->Cancel();
}

void CallPump::Pump() {
  std::shared_ptr<Answer> answer;
  {
    absl::MutexLock lock(&mutex_);
    answer = answer_;
  }
  AnswerChunk chunk;
  std::optional<AnswerEnd> end;
  if (answer->Take(&chunk, &end)) {
    if (end && absl::IsCancelled(end->status) && IsLate()) {
      end->status = absl::DeadlineExceededError("the deadline passed while the answer was made");
    }
    if (end) LogEnd(method_, adapter_ids_, *end);
    OnPiece(std::move(chunk), std::move(end));
    return;
  }
  answer->NotifyWhenReady([self = Share()] { self->Continue(); });
}

namespace {

std::vector<std::string> HeadersOf(const grpc::CallbackServerContext& context, const char* name) {
  std::vector<std::string> values;
  const auto [begin, end] = context.client_metadata().equal_range(name);
  for (auto header = begin; header != end; ++header) {
    values.emplace_back(header->second.data(), header->second.size());
  }
  return values;
}

// By the clock that gRPC keeps it in, which the wall clock does not move. Not deadline(): its
// nanoseconds overflow on what a client may say, some thousand years.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const gpr_timespec deadline = context.raw_deadline();
  if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0) {
    return absl::InfiniteFuture();
  }
  const gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
  return SteadyNow() + absl::Seconds(left.tv_sec) + absl::Nanoseconds(left.tv_nsec);
}

}  // namespace

Credentials CredentialsOf(const grpc::CallbackServerContext& context) {
  return {HeadersOf(context, "authorization"), HeadersOf(context, "x-tenant-id")};
}

void FillFromContext(const grpc::CallbackServerContext& context, GenerateCall* call) {
  call->credentials = CredentialsOf(context);
  call->adapter_headers = HeadersOf(context, "x-adapter-id");
  call->deadline = DeadlineOf(context);
}

}  // namespace lorica
