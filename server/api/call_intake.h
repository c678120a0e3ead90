// A service of gRPC whose calls are looked at before their message is read.
//
// The library reads the message of a unary or server-streaming method before anybody sees the
// call. To a client bidirectional streams are the same bytes, and theirs are read when asked for.
// So every method is registered as one: first its head is judged, key and metadata, then its
// message has a turn (MessageTurns), finds room (BodyRoom), is parsed, and goes to the handler that
// it was added with, on whose reactor the call goes on. What comes behind the message is never
// read.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/message.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/api/body_room.h"
#include "server/api/gateway.h"
#include "server/api/message_bound.h"
#include "server/api/message_turns.h"
#include "server/api/parse_refusal.h"

namespace lorica {

// Names, values and 32 for each header, as HTTP/2 counts.
inline constexpr int kMetadataBytesMax = 8 << 10;

// Of calls that ask for no key: their messages hold no room, which others may need.
inline constexpr int64_t kOpenMessageBytesMax = kSmallBodyBytes;

// Where calls wait, and what their messages fill.
struct IntakeRooms {
  MessageTurns* turns;
  BodyRoom* bytes;
  int64_t message_bytes_max = kMessageBytesMax;
};

// Whose call it is, in either.
struct IntakeCaller {
  std::string lane;
  std::string tenant;
};

// The line in the log of a call that is refused at the door; none where its connection has one.
void LogRefusedCall(absl::string_view method, const grpc::ServerContextBase& context,
                    const absl::Status& status);

// What is looked at before a call's message: who calls, and, of calls that generate, whether the
// engine's queue has room for any more of theirs.
enum class IntakeChecks : uint8_t { kCaller, kCallerAndRoom };

// A call until its handler has it, and between that one's reactor and the library from then on.
class HeldCall : public grpc::ServerGenericBidiReactor, private MessageTurns::Turn {
 public:
  HeldCall(absl::string_view method, IntakeRooms rooms, grpc::CallbackServerContext* context)
      : method_(method), rooms_(rooms), context_(context) {}

  // Refuses it, or lets it wait for its turn.
  void Begin(absl::StatusOr<IntakeCaller> caller);

  void OnReadDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 protected:
  // Parses the message and hands it over. An error: it was not, and ends the call.
  virtual absl::Status Handle(grpc::ByteBuffer* bytes) = 0;
  // What hears of the call from here on, within Handle.
  void SetReactor(grpc::internal::ServerReactor* reactor);
  void Send(const google::protobuf::Message& message, grpc::WriteOptions options);
  void SendAndFinish(const google::protobuf::Message& message, grpc::WriteOptions options,
                     grpc::Status status);
  grpc::CallbackServerContext* context() const { return context_; }

 private:
  void StartReading() override { StartRead(&bytes_); }
  void GiveWay(const absl::Status& why) override;
  void TurnAway(const absl::Status& why) override { Refuse(why); }
  void Refuse(const absl::Status& status);
  absl::Status WhyNoMessage() const;
  // Of the message that is here: its first byte and its size, for which it finds room.
  absl::Status CheckFrame();
  bool Serialize(const google::protobuf::Message& message);

  const absl::string_view method_;
  const IntakeRooms rooms_;
  grpc::CallbackServerContext* const context_;
  std::string tenant_;
  std::optional<BodyRoom::Body> held_;  // of a message that is not small
  grpc::ByteBuffer bytes_;              // the message, then what is sent
  absl::Status gave_way_;
  std::atomic<bool> is_last_{false};  // of GiveWay and OnReadDone one has been here
  absl::Mutex mutex_;
  grpc::internal::ServerReactor* reactor_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

template <typename Request, typename Response>
class HeldUnary final : public HeldCall, private grpc::ServerCallbackUnary {
 public:
  using Handler = std::function<grpc::ServerUnaryReactor*(grpc::CallbackServerContext*,
                                                          const Request*, Response*)>;
  HeldUnary(absl::string_view method, IntakeRooms rooms, grpc::CallbackServerContext* context,
            const Handler& handler)
      : HeldCall(method, rooms, context), handler_(handler) {}

 private:
  absl::Status Handle(grpc::ByteBuffer* bytes) override {
    Request request;
    if (absl::Status s = ParseMessage(bytes, &request); !s.ok()) return s;
    unary_ = handler_(context(), &request, &response_);
    SetReactor(unary_);
    BindReactor(unary_);
    return absl::OkStatus();
  }
  void Finish(grpc::Status status) override {
    if (!status.ok()) return HeldCall::Finish(std::move(status));
    SendAndFinish(response_, grpc::WriteOptions(), std::move(status));
  }
  void SendInitialMetadata() override { StartSendInitialMetadata(); }
  grpc::internal::ServerReactor* reactor() override { return unary_; }
  void CallOnDone() override {}  // HeldCall hears of the end

  const Handler& handler_;
  grpc::ServerUnaryReactor* unary_ = nullptr;
  Response response_;
};

template <typename Request, typename Response>
class HeldStream final : public HeldCall, private grpc::ServerCallbackWriter<Response> {
 public:
  using Handler = std::function<grpc::ServerWriteReactor<Response>*(grpc::CallbackServerContext*,
                                                                    const Request*)>;
  HeldStream(absl::string_view method, IntakeRooms rooms, grpc::CallbackServerContext* context,
             const Handler& handler)
      : HeldCall(method, rooms, context), handler_(handler) {}

  void OnWriteDone(bool ok) override { writer_->OnWriteDone(ok); }

 private:
  absl::Status Handle(grpc::ByteBuffer* bytes) override {
    Request request;
    if (absl::Status s = ParseMessage(bytes, &request); !s.ok()) return s;
    writer_ = handler_(context(), &request);
    SetReactor(writer_);
    this->BindReactor(writer_);
    return absl::OkStatus();
  }
  void Finish(grpc::Status status) override { HeldCall::Finish(std::move(status)); }
  void SendInitialMetadata() override { this->StartSendInitialMetadata(); }
  void Write(const Response* message, grpc::WriteOptions options) override {
    Send(*message, options);
  }
  void WriteAndFinish(const Response* message, grpc::WriteOptions options,
                      grpc::Status status) override {
    SendAndFinish(*message, options, std::move(status));
  }
  grpc::internal::ServerReactor* reactor() override { return writer_; }
  void CallOnDone() override {}

  const Handler& handler_;
  grpc::ServerWriteReactor<Response>* writer_ = nullptr;
};

class CallIntake final : public grpc::Service {
 public:
  // `service` is its full name. With a gateway callers show their keys, and each tenant is a lane;
  // without, or where nobody needs a key, each connection. Everything given outlives it and its
  // calls.
  CallIntake(std::string service, Gateway* gateway, IntakeRooms rooms)
      : service_(std::move(service)), gateway_(gateway), rooms_(rooms) {}

  // A unary method of `server`.
  template <typename Server, typename Request, typename Response>
  void Add(const std::string& method, Server* server,
           grpc::ServerUnaryReactor* (Server::*handle)(grpc::CallbackServerContext*, const Request*,
                                                       Response*),
           IntakeChecks checks = IntakeChecks::kCaller) {
    AddHeld<HeldUnary<Request, Response>>(
        method, checks,
        [=](grpc::CallbackServerContext* context, const Request* request, Response* response) {
          return (server->*handle)(context, request, response);
        });
  }
  // One that streams its answer.
  template <typename Server, typename Request, typename Response>
  void Add(const std::string& method, Server* server,
           grpc::ServerWriteReactor<Response>* (Server::*handle)(grpc::CallbackServerContext*,
                                                                 const Request*),
           IntakeChecks checks = IntakeChecks::kCaller) {
    AddHeld<HeldStream<Request, Response>>(
        method, checks, [=](grpc::CallbackServerContext* context, const Request* request) {
          return (server->*handle)(context, request);
        });
  }

 private:
  template <typename Held>
  void AddHeld(const std::string& method, IntakeChecks checks, typename Held::Handler handler) {
    const absl::string_view name = names_.emplace_back(method);
    Register(method,
             [this, name, checks, handler = std::move(handler)](grpc::CallbackServerContext* call) {
               auto* const held = new Held(name, rooms_, call, handler);  // until OnDone
               held->Begin(CallerOf(*call, checks));
               return held;
             });
  }
  void Register(const std::string& method,
                std::function<grpc::ServerGenericBidiReactor*(grpc::CallbackServerContext*)> begin);
  // Or why the call is refused.
  absl::StatusOr<IntakeCaller> CallerOf(const grpc::CallbackServerContext& context,
                                        IntakeChecks checks) const;

  const std::string service_;
  Gateway* const gateway_;
  const IntakeRooms rooms_;
  std::deque<std::string> names_;  // the library keeps pointers to them
};

}  // namespace lorica
