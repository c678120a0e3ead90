#include "server/api/inference_service.h"

#include <atomic>
#include <utility>

#include "absl/time/time.h"
#include "adapters/hub/steady_now.h"
#include "server/api/field_error.h"
#include "server/api/proto_convert.h"
#include "server/api/refusal_log.h"
#include "server/api/reply.h"

namespace lorica {
namespace {

GenerateCall CallOf(const grpc::CallbackServerContext& context,
                    const v1::GenerateRequest& request) {
  GenerateCall call = ToCall(request);
  FillFromContext(context, &call);
  return call;
}

class UnaryGenerate final : public Reply, public CallPump {
 public:
  UnaryGenerate(Gateway* gateway, CallPools pools, v1::GenerateResponse* response)
      : CallPump(gateway, pools, "Generate"), response_(response) {}

  void Start(GenerateCall call) {
    with_logprobs_ = call.logprobs.has_value();
    Begin(std::move(call));
  }
  void OnCancel() override { CancelCall(); }

 protected:
  std::shared_ptr<CallPump> Share() override {
    return std::static_pointer_cast<UnaryGenerate>(shared_from_this());
  }
  void OnRefused(const absl::Status& status) override { Fail(status); }
  void OnStalled() override {}  // pieces are taken as they come
  void OnPiece(AnswerChunk chunk, std::optional<AnswerEnd> end) override {
    AppendChunk(chunk, with_logprobs_, response_);
    if (!end) {
      Continue();
    } else if (!end->status.ok()) {
      Fail(end->status);
    } else {
      Succeed([&] { FillEnd(*end, response_); });
    }
  }

 private:
  v1::GenerateResponse* const response_;
  bool with_logprobs_ = false;
};

class StreamGenerate final : public grpc::ServerWriteReactor<v1::GenerateStreamResponse>,
                             public CallPump,
                             public std::enable_shared_from_this<StreamGenerate> {
 public:
  StreamGenerate(Gateway* gateway, CallPools pools, grpc::CallbackServerContext* context)
      : CallPump(gateway, pools, "GenerateStream"), context_(context) {}

  void Start(GenerateCall call) {
    self_ = shared_from_this();
    with_logprobs_ = call.logprobs.has_value();
    Begin(std::move(call));
  }
  void OnCancel() override { CancelCall(); }
  void OnWriteDone(bool ok) override {
    if (ok) {
      Continue();
      return;
    }
    CancelCall();
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client does not read any more"));
  }
  void OnDone() override {
    {
      absl::MutexLock lock(&context_mutex_);
      context_ = nullptr;
    }
    std::exchange(self_, nullptr).reset();
  }

 protected:
  std::shared_ptr<CallPump> Share() override { return shared_from_this(); }
  void OnRefused(const absl::Status& status) override { Finish(ToGrpcStatus(status)); }
  void OnStalled() override {
    absl::MutexLock lock(&context_mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }
  void OnPiece(AnswerChunk chunk, std::optional<AnswerEnd> end) override {
    message_.Clear();
    AppendChunk(chunk, with_logprobs_, &message_);
    token_count_ += static_cast<int32_t>(chunk.tokens.size());
    message_.set_token_count(token_count_);
    if (!end) {
      StartWrite(&message_);
    } else if (end->status.ok()) {
      FillEnd(*end, message_.mutable_finish());
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    } else if (chunk.tokens.empty() && chunk.text.empty()) {
      Finish(ToGrpcStatus(end->status));
    } else {
      StartWriteAndFinish(&message_, grpc::WriteOptions(), ToGrpcStatus(end->status));
    }
  }

 private:
  v1::GenerateStreamResponse message_;
  int32_t token_count_ = 0;
  bool with_logprobs_ = false;
  absl::Mutex context_mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(context_mutex_);
  std::shared_ptr<StreamGenerate> self_;
};

}  // namespace

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  auto call = Reply::Make<UnaryGenerate>(gateway_, pools_, response);
  call->Start(CallOf(*context, *request));
  return call.get();
}

grpc::ServerWriteReactor<v1::GenerateStreamResponse>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  auto call = std::make_shared<StreamGenerate>(gateway_, pools_, context);
  call->Start(CallOf(*context, *request));
  return call.get();
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  auto reply = Reply::Make();
  if (const auto tenant = gateway_->Authenticate(CredentialsOf(*context)); !tenant.ok()) {
    LogRefusal("Tokenize", "", tenant.status(), SteadyNow());
    reply->Fail(tenant.status());
    return reply.get();
  }
  std::optional<std::string> prompt;
  if (request->has_prompt()) prompt = request->prompt();
  const bool taken = pools_.work->TryRun([gateway = gateway_, reply, response, prompt,
                                          turns = ToTurns(request->messages())] {
    if (reply->cancelled()) return reply->Fail(absl::CancelledError("the client cancelled"));
    const auto tokenized = gateway->Tokenize(prompt, turns);
    if (!tokenized.ok()) {
      LogRefusal("Tokenize", "", tokenized.status(), SteadyNow());
      return reply->Fail(tokenized.status());
    }
    reply->Succeed([&] {
      response->mutable_token_ids()->Add(tokenized->token_ids.begin(), tokenized->token_ids.end());
      for (const std::string& token : tokenized->tokens) response->add_tokens(token);
    });
  });
  if (!taken) {
    const absl::Status busy = TryLater("the server has too many calls to look at; try again");
    LogRefusal("Tokenize", "", busy, SteadyNow());
    reply->Fail(busy);
  }
  return reply.get();
}

}  // namespace lorica
