// Goal: messages on their way take bounded memory, whoever sends them and whatever they announce,
// and nobody else's calls end, wait or fail for them.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "adapters/sha256.h"
#include "lorica/v1/inference.grpc.pb.h"
#include "server/api/grpc_service.h"
#include "server/api/metadata_bound.h"
#include "tests/fakes/raw_http2.h"
#include "tests/integration/neighbours.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kGenerate[] = "/lorica.v1.InferenceService/Generate";
constexpr char kCheck[] = "/grpc.health.v1.Health/Check";
constexpr absl::string_view kServing("\0\0\0\0\2\x08\1", 7);  // its answer
constexpr int kCalls = 250;                                   // of a connection
constexpr int kAnnounced = 4'000'000;
constexpr int kSent = 3'900'000;  // of each, if it may
const absl::Duration kUnaffected = kInstrumentationFactor * absl::Seconds(4);
// Of the process, where `messages_bytes` are on their way, with what the library keeps beside them.
constexpr int64_t GrowthBytesMax(int64_t messages_bytes) {
  return kInstrumentationFactor * (messages_bytes + (48 << 20));
}

// A connection with many calls, each of which has announced a large message and sends as much of it
// as it may, but never the end.
class Flood {
 public:
  Flood(int port, const std::string& method, const RawHeaders& headers, int calls = kCalls,
        int64_t announced = kAnnounced)
      : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ::fcntl(socket_, F_SETFL, O_NONBLOCK);
    outbox_ = Preface();
    for (int i = 0; i < calls; ++i) {
      const uint32_t stream = 2 * i + 1;
      outbox_ += CallHeaders(stream, method, headers);
      outbox_ += MessageData(stream, "", /*end=*/false, false, announced);
      calls_[stream].window -= 5;
    }
    window_ -= 5 * calls;
  }
  Flood(const Flood&) = delete;
  ~Flood() { ::close(socket_); }

  // Reads what has come and sends what it may.
  void Pump() {
    char bytes[1 << 16];
    ssize_t count = 0;
    while ((count = ::recv(socket_, bytes, sizeof bytes, 0)) > 0) inbox_.append(bytes, count);
    if (count == 0) closed_ = true;
    while (inbox_.size() >= 9 && inbox_.size() >= 9 + Number(0, 3)) TakeFrame();
    for (auto& [stream, call] : calls_) {
      if (outbox_.size() > (1 << 20)) break;
      const int64_t part = std::min<int64_t>({window_, first_window_ + call.window, 16384});
      if (part <= 0 || call.sent >= kSent) continue;
      outbox_ += Frame(FrameType::kData, 0, stream, std::string(part, 'a'));
      window_ -= part;
      call.window -= part;
      call.sent += part;
      sent_bytes_ += part;
    }
    const ssize_t sent = ::send(socket_, outbox_.data(), outbox_.size(), MSG_NOSIGNAL);
    if (sent > 0) outbox_.erase(0, sent);
  }
  int open() const { return static_cast<int>(calls_.size()); }
  int64_t sent_bytes() const { return sent_bytes_; }
  bool closed() const { return closed_; }
  const std::string& heads() const { return heads_; }  // that the server answered with

 private:
  struct Call {
    int64_t window = 0;  // beside the first
    int64_t sent = 0;
  };
  uint64_t Number(size_t at, int bytes) const {
    uint64_t number = 0;
    for (int i = 0; i < bytes; ++i) number = number << 8 | static_cast<uint8_t>(inbox_[at + i]);
    return number;
  }
  void TakeFrame() {
    const size_t length = Number(0, 3);
    const auto type = static_cast<FrameType>(inbox_[3]);
    const bool acknowledges = (inbox_[4] & 1) != 0;
    const auto stream = static_cast<uint32_t>(Number(5, 4));
    if (type == FrameType::kSettings && !acknowledges) {
      for (size_t at = 9; at < 9 + length; at += 6) {
        if (Number(at, 2) == 4) first_window_ = static_cast<int64_t>(Number(at + 2, 4));
      }
      outbox_ += Frame(FrameType::kSettings, 1, 0, "");
    } else if (type == FrameType::kPing && !acknowledges) {
      outbox_ += Frame(FrameType::kPing, 1, 0, inbox_.substr(9, length));
    } else if (type == FrameType::kWindowUpdate && stream == 0) {
      window_ += static_cast<int64_t>(Number(9, 4));
    } else if (type == FrameType::kWindowUpdate && calls_.contains(stream)) {
      calls_[stream].window += static_cast<int64_t>(Number(9, 4));
    } else if (type == FrameType::kHeaders || type == FrameType::kReset) {
      if (type == FrameType::kHeaders) heads_ += inbox_.substr(9, length);
      calls_.erase(stream);
    }
    inbox_.erase(0, 9 + length);
  }

  const int socket_;
  std::string outbox_;
  std::string inbox_;
  std::string heads_;
  std::map<uint32_t, Call> calls_;
  int64_t window_ = 65535;
  int64_t first_window_ = 65535;
  int64_t sent_bytes_ = 0;
  bool closed_ = false;
};

// Streams one answer after the other, each from its first to its last token.
class Bystander {
 public:
  Bystander(const std::string& address, std::string key)
      : channel_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())),
        key_(std::move(key)),
        thread_([this] { Run(); }) {}
  ~Bystander() { Check(); }
  int answers() const { return answers_; }
  void Check() {
    stop_ = true;
    if (!thread_.joinable()) return;
    thread_.join();
    EXPECT_GT(answers_, 0);
    EXPECT_EQ(wrong_, "");
  }

 private:
  void Run() {
    constexpr int kTokens = 400;
    const auto stub = v1::InferenceService::NewStub(channel_);
    while (!stop_ && wrong_.empty()) {
      grpc::ClientContext context;
      if (!key_.empty()) context.AddMetadata("authorization", "Bearer " + key_);
      const auto reader = stub->GenerateStream(&context, TokensRequest(kTokens));
      v1::GenerateStreamResponse piece;
      while (reader->Read(&piece)) {
      }
      const grpc::Status status = reader->Finish();
      if (!status.ok() || piece.token_count() != kTokens) {
        wrong_ = absl::StrCat(status.error_code(), " ", status.error_message(), " after ",
                              piece.token_count());
      }
      ++answers_;
    }
  }

  const std::shared_ptr<grpc::Channel> channel_;
  const std::string key_;
  std::atomic<bool> stop_{false};
  std::atomic<int> answers_{0};
  std::string wrong_;
  std::thread thread_;
};

class GrpcMessages : public ::testing::Test {
 protected:
  void SetUp() override { WriteTinyAdapter(adapters_, "plain", 4, false); }
  void Start(bool with_keys) {
    std::vector<std::string> flags = {"--http-address", "127.0.0.1:0", "--threads", "1",
                                      "--arena-bytes",  "16MiB"};
    ServerProcess::Options options;
    if (with_keys) {
      std::string tenants;
      for (const std::string name : {"app", "near"}) {
        Sha256 sum;
        sum.Update(name + "-key");
        absl::StrAppend(&tenants, tenants.empty() ? "" : ",", R"({"name": ")", name,
                        R"(", "keys": [")", sum.Finish(), R"("], "adapters": ["*"]})");
      }
      folder_.Write("tenants.json", absl::StrCat(R"({"tenants": [)", tenants, "]}"));
      flags.insert(flags.end(), {"--tenants-file", folder_.path() + "/tenants.json"});
      key_ = "near-key";
    }
    options.client.api_key = key_;
    options.model = TinyModelPath();
    options.adapters_dir = adapters_.path();
    options.flags = flags;
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    port_ = server_->port();
    const absl::Status first = server_->NewClient()->Generate(TokensRequest(1)).status();
    ASSERT_TRUE(first.ok()) << first;
  }
  static RawHeaders Key(const std::string& name) {
    return {{"authorization", "Bearer " + name + "-key"}};
  }
  // Lets them send for `time` beside others, of whom nobody may notice. How much more memory the
  // server had at most.
  int64_t GrowthDuring(std::vector<std::unique_ptr<Flood>>& floods, absl::Duration time) {
    Neighbours neighbours(server_.get(), key_);
    Bystander bystander(server_->address(), key_);
    const absl::Time begin = absl::Now();
    while (bystander.answers() < 3 && absl::Now() - begin < kUnaffected) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    const int64_t before = server_->ResidentBytes();
    int64_t most = before;
    const absl::Time end = absl::Now() + time;
    while (absl::Now() < end) {
      for (auto& flood : floods) flood->Pump();
      most = std::max(most, server_->ResidentBytes());
      absl::SleepFor(absl::Milliseconds(1));
    }
    bystander.Check();
    neighbours.Check(kUnaffected);
    std::printf("memory grew by %ld MiB, neighbours waited %.1f s\n",
                static_cast<long>((most - before) >> 20),
                absl::ToDoubleSeconds(neighbours.Longest()));
    return most - before;
  }
  std::vector<std::unique_ptr<Flood>> Floods(int connections, const std::string& method,
                                             const RawHeaders& headers) {
    std::vector<std::unique_ptr<Flood>> floods;
    for (int i = 0; i < connections; ++i) {
      floods.push_back(std::make_unique<Flood>(port_, method, headers));
    }
    return floods;
  }
  // The only call of a connection, answered with its head within ten seconds.
  std::string HeadOf(Flood& flood) {
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (flood.open() > 0 && absl::Now() < end) {
      flood.Pump();
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(flood.open(), 0);
    return flood.heads();
  }
  // Until the log has it so often; it may come after the answer.
  void ExpectOneLine(const std::string& text) { ExpectLines(text, 1); }
  void ExpectLines(const std::string& text, int lines) {
    const auto count = [&] {
      const std::string log = server_->Log();
      int found = 0;
      size_t at = log.find(text);
      for (; at != std::string::npos; at = log.find(text, at + 1)) ++found;
      return found;
    };
    const absl::Time end = absl::Now() + absl::Seconds(5);
    while (count() < lines && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
    EXPECT_EQ(count(), lines) << text << "\n" << server_->Log();
  }

  TemporaryFolder adapters_;
  TemporaryFolder folder_;
  std::string key_;
  std::unique_ptr<ServerProcess> server_;
  int port_ = 0;
};

constexpr absl::Duration kFloodTime = absl::Seconds(4);

TEST_F(GrpcMessages, WithoutAKeyNoneIsRead) {
  Start(/*with_keys=*/true);
  for (const char* method : {kGenerate, "/lorica.v1.InferenceService/GenerateStream",
                             "/lorica.v1.AdapterService/WatchAdapters", "/none.Service/None"}) {
    auto floods = Floods(2, method, {});
    constexpr int64_t kWindows = int64_t{kCalls} * kStreamWindowBytes;
    EXPECT_LT(GrowthDuring(floods, kFloodTime / 2), GrowthBytesMax(2 * kWindows)) << method;
    for (const auto& flood : floods) {
      EXPECT_EQ(flood->open(), 0) << method;
      EXPECT_FALSE(flood->closed());
      EXPECT_LE(flood->sent_bytes(), kWindows);
    }
  }
}

// Health and reflection ask for no key, so a few are read at a time, and each gives way.
TEST_F(GrpcMessages, WhereNoKeyIsNeededAFewAreRead) {
  Start(/*with_keys=*/true);
  for (const char* method : {kCheck, "/grpc.health.v1.Health/Watch",
                             "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}) {
    auto floods = Floods(6, method, {});
    EXPECT_LT(GrowthDuring(floods, kFloodTime),
              GrowthBytesMax(kTransportThreadsMax * int64_t{kMessageBytesMax}))
        << method;
    auto more = Floods(6, method, {});  // and all places to wait are taken
    for (int i = 0; i < 20; ++i) {
      for (auto& flood : more) flood->Pump();
      absl::SleepFor(absl::Milliseconds(1));
    }
    const absl::Time began = absl::Now();
    RawConnection probe(port_);
    probe.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") + CallHeaders(1, kCheck) +
               MessageData(1, ""));
    EXPECT_TRUE(probe.WaitFor(std::string(kServing), absl::Seconds(10))) << method << probe.heard();
    EXPECT_LT(absl::Now() - began, kUnaffected) << method;
  }
}

TEST_F(GrpcMessages, OneTenantsLeaveRoomForOthers) {
  Start(/*with_keys=*/true);
  auto floods = Floods(3, kGenerate, Key("app"));
  constexpr int64_t kHalf = kTenantTurns.reading_max / 2;
  constexpr int64_t kWaiting = kTenantTurns.waiting_max / 2;
  EXPECT_LT(GrowthDuring(floods, kFloodTime),
            GrowthBytesMax(kHalf * kMessageBytesMax + kWaiting * kStreamWindowBytes));
  for (const auto& flood : floods) {
    EXPECT_LT(flood->open(), kCalls) << "slow ones gave way";
    EXPECT_FALSE(flood->closed());
  }
}

TEST_F(GrpcMessages, AreBoundedWhereNobodyNeedsAKey) {
  Start(/*with_keys=*/false);
  auto floods = Floods(6, kGenerate, {});
  EXPECT_LT(GrowthDuring(floods, kFloodTime),
            GrowthBytesMax(int64_t{kTenantTurns.reading_max} * kMessageBytesMax +
                           int64_t{kTenantTurns.waiting_max} * kStreamWindowBytes));
}

TEST_F(GrpcMessages, WhatAnnouncesTooMuchIsRefusedBeforeItComes) {
  Start(/*with_keys=*/true);
  const int64_t before = server_->ResidentBytes();
  for (const int64_t announced : {int64_t{2} * kMessageBytesMax, int64_t{1} << 30}) {
    Flood flood(port_, kGenerate, Key("app"), 1, announced);
    EXPECT_THAT(HeadOf(flood), HasSubstr("the message has more than 4194304 bytes"));
    EXPECT_LE(flood.sent_bytes(), kStreamWindowBytes);
  }
  EXPECT_LT(server_->ResidentBytes() - before, GrowthBytesMax(0));
}

// At the limit and one byte beyond it, with a second call on the same connection.
TEST_F(GrpcMessages, MetadataBeyondTheirLimitEndTheirCallAlone) {
  Start(/*with_keys=*/true);
  constexpr int kHeader = 32;
  const RawHeaders key = Key("app");
  int bytes = 0;
  for (const auto& [name, value] : key) bytes += static_cast<int>(name.size() + value.size());
  const int left = kMetadataBytesMax - bytes - 2 * kHeader - static_cast<int>(sizeof "x-f" - 1);
  RawConnection connection(port_);
  connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, ""));
  uint32_t stream = 1;
  const auto call = [&](int value_bytes) {
    RawHeaders headers = key;
    headers.emplace_back("x-f", std::string(value_bytes, 'y'));
    connection.Send(CallHeaders(stream, "/lorica.v1.InferenceService/Tokenize", headers) +
                    MessageData(stream, "\n\2hi"));
    stream += 2;
  };
  const std::string too_many = absl::StrCat("more than ", kMetadataBytesMax);
  call(left);
  EXPECT_TRUE(connection.WaitFor("grpc-status", absl::Seconds(10)));
  EXPECT_THAT(connection.heard(), Not(HasSubstr(too_many)));
  call(left + 1);
  EXPECT_TRUE(connection.WaitFor(too_many, absl::Seconds(10)));
  for (const int size : {20'000, 60'000}) call(size);
  EXPECT_FALSE(connection.ClosedWithin(absl::Milliseconds(200)));
  const size_t heard = connection.heard().size();
  call(1);
  EXPECT_FALSE(connection.ClosedWithin(absl::Milliseconds(200)));
  EXPECT_GT(connection.heard().size(), heard) << "it is answered";
  ExpectOneLine(absl::StrCat("metadata have ", kMetadataBytesMax + 1, " bytes, ", too_many));
}

// One header that never ends, without a key, from clients that have not acknowledged any limit.
TEST_F(GrpcMessages, AHeadThatNeverEndsEndsItsConnection) {
  Start(/*with_keys=*/true);
  const int64_t before = server_->ResidentBytes();
  constexpr int kConnections = 20;
  constexpr int kFrameBytes = 16384;
  const std::string head =
      Frame(FrameType::kHeaders, 0, 1, std::string("\0\3x-f\x7f\xff\xff\xff\x7f", 10));  // 256 MiB
  const std::string more = Frame(FrameType::kContinuation, 0, 1, std::string(kFrameBytes, 'y'));
  std::vector<std::unique_ptr<RawConnection>> connections;
  for (int i = 0; i < kConnections; ++i) {
    RawConnection& connection = *connections.emplace_back(std::make_unique<RawConnection>(port_));
    connection.Send(Preface() + head);
    bool taken = true;
    for (int j = 0; taken && j < 640; ++j) taken = connection.Send(more);
    EXPECT_FALSE(taken && !connection.ClosedWithin(absl::Seconds(5)));
  }
  EXPECT_LT(server_->ResidentBytes() - before, GrowthBytesMax(0));
  EXPECT_THAT(server_->Log(), HasSubstr("the head of a call has more than 65536 bytes"));
}

// As many frames as a head may have, and one more; and more bytes than one may have in each.
TEST_F(GrpcMessages, AHeadHasSoManyFrames) {
  Start(/*with_keys=*/true);
  const auto send = [](RawConnection& connection, int frames, const std::string& part) {
    const std::string head = CallHeaders(1, kGenerate);
    std::string all = Preface() + Frame(FrameType::kHeaders, 0, 1, head.substr(9));
    for (int i = 2; i < frames; ++i) all += Frame(FrameType::kContinuation, 0, 1, part);
    connection.Send(all + Frame(FrameType::kContinuation, kEndHeaders, 1, part));
  };
  RawConnection most(port_);
  send(most, kHeadFramesMax, Literal("x-f", "y"));
  EXPECT_TRUE(most.WaitFor("this server needs a key", absl::Seconds(10)));
  EXPECT_FALSE(most.ClosedWithin(absl::Milliseconds(200)));
  RawConnection beyond(port_);
  send(beyond, kHeadFramesMax + 1, Literal("x-f", "y"));
  EXPECT_TRUE(beyond.ClosedWithin(absl::Seconds(10)));
  EXPECT_THAT(beyond.heard(), Not(HasSubstr("this server needs a key")));
  ExpectOneLine("or 16 frames; its connection ends");
  RawConnection large(port_);  // has not acknowledged the limit
  send(large, 6, Literal("x-f", std::string(14'000, 'y')));
  EXPECT_TRUE(large.ClosedWithin(absl::Seconds(10)));
}

// Of a call that is there before its head is whole: the path comes first.
TEST_F(GrpcMessages, AHeadThatIsTooLargeHasOneLine) {
  Start(/*with_keys=*/false);
  for (const auto& [method, bytes] : {std::pair(kGenerate, kTransportMetadataBytesMax),
                                      {kGenerate, 14'000},
                                      {"/none.Service/None", 14'000}}) {
    RawHeaders headers;
    for (int i = 0; i * bytes < kTransportMetadataBytesMax; ++i) {
      headers.emplace_back(absl::StrCat("x-f", i), std::string(bytes, 'y'));
    }
    RawConnection connection(port_);
    connection.Send(Preface() + CallHeaders(1, method, headers));
    EXPECT_TRUE(connection.ClosedWithin(absl::Seconds(10)));
    RawConnection next(port_);
    next.Send(Preface() + CallHeaders(1, kGenerate) + MessageData(1, ""));
    EXPECT_TRUE(next.WaitFor("grpc-status", absl::Seconds(10))) << "it has a line, too";
  }
  ExpectLines("refused method=", 6);
}

// Frames that nothing holds back, without pause.
TEST_F(GrpcMessages, FramesWithoutEndTakeNoMemory) {
  Start(/*with_keys=*/true);
  const int64_t before = server_->ResidentBytes();
  const absl::Time end = absl::Now() + absl::Seconds(4);
  std::vector<std::thread> floods;
  for (int i = 0; i < 2; ++i) {
    floods.emplace_back([this, end] {
      std::string frames;
      const std::string payload("\0\0\0\1\0", 5);
      for (int j = 0; j < 1000; ++j) frames += Frame(FrameType::kPriority, 0, 3, payload);
      RawConnection connection(port_);
      connection.Send(Preface());
      while (absl::Now() < end && connection.Send(frames)) {
      }
    });
  }
  int64_t most = before;
  while (absl::Now() < end) {
    most = std::max(most, server_->ResidentBytes());
    absl::SleepFor(absl::Milliseconds(20));
  }
  for (std::thread& flood : floods) flood.join();
  EXPECT_LT(most - before, GrowthBytesMax(0));
  EXPECT_TRUE(server_->NewClient()->Generate(TokensRequest(1)).ok());
}

// Heads of streams that come too late or are closed, which the library skips: each is one of its
// own, however many frames they are together.
TEST_F(GrpcMessages, HeadsThatAreSkippedAreNotOneLongHead) {
  Start(/*with_keys=*/true);
  constexpr uint32_t kFirst = 1001;
  RawConnection connection(port_);
  std::string all = Preface() + CallHeaders(kFirst, kGenerate);
  for (uint32_t i = 0; i < 4 * kHeadFramesMax; ++i) all += CallHeaders(2 * i + 1, kGenerate);
  connection.Send(all + CallHeaders(kFirst + 2, kCheck) +
                  MessageData(kFirst + 2, "", /*end=*/true));
  EXPECT_TRUE(connection.WaitFor(std::string(kServing), absl::Seconds(10)));
  // One of several frames that never ends is a long head, skipped or not.
  std::string more = Frame(FrameType::kHeaders, 0, 3, Literal("x-f", "y"));
  for (int i = 0; i < kHeadFramesMax; ++i) {
    more += Frame(FrameType::kContinuation, 0, 3, Literal("x-f", "y"));
  }
  connection.Send(more);
  EXPECT_TRUE(connection.ClosedWithin(absl::Seconds(10)));
}

TEST_F(GrpcMessages, ASlowOneGivesWayAndIsToldSo) {
  Start(/*with_keys=*/true);
  constexpr int kHalf = kTenantTurns.reading_max / 2;
  Flood slow(port_, kGenerate, Key("app"), kHalf);
  const absl::Time end = absl::Now() + 3 * kCrowdedMessageTime;
  while (absl::Now() < end) slow.Pump();
  EXPECT_EQ(slow.open(), kHalf) << "while nobody waits";
  ClientOptions app;
  app.server = server_->address();
  app.api_key = "app-key";
  const absl::Time began = absl::Now();
  const absl::Status answer = LoricaClient(app).Generate(TokensRequest(1)).status();
  EXPECT_TRUE(answer.ok()) << answer;
  EXPECT_LT(absl::Now() - began, kUnaffected);
  while (slow.open() == kHalf && absl::Now() - began < kUnaffected) slow.Pump();
  EXPECT_EQ(slow.open(), kHalf - 1);
  EXPECT_THAT(slow.heads(), HasSubstr("the message took longer than 100ms while others waited"));
  ExpectOneLine("method=Generate code=UNAVAILABLE");
}

TEST_F(GrpcMessages, WhateverTheFaceItselfRefusesHasALine) {
  Start(/*with_keys=*/true);
  const auto send = [&](const std::string& method, const RawHeaders& headers,
                        const std::string& message) {
    RawConnection connection(port_);
    connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                    CallHeaders(1, method, headers) + MessageData(1, message));
    connection.WaitFor("grpc-status", absl::Seconds(10));
  };
  send("/none.Service/None", {}, "");
  ExpectOneLine("method=unknown code=UNIMPLEMENTED");
  ExpectOneLine("this server has no method none.Service/None");
  send(kGenerate, {}, "");
  ExpectOneLine("method=Generate code=UNAUTHENTICATED");
  send(kGenerate, Key("app"), "\xff");
  ExpectOneLine("method=Generate code=INVALID_ARGUMENT");
  RawHeaders late = Key("app");
  late.emplace_back("grpc-timeout", "5m");
  send(kGenerate, late, TokensRequest(480).SerializeAsString());
  ExpectOneLine("method=Generate code=DEADLINE_EXCEEDED");
  RawConnection none(port_);
  none.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
            CallHeaders(1, "/lorica.v1.InferenceService/Tokenize", Key("app"), kEndStream));
  none.WaitFor("grpc-status", absl::Seconds(10));
  ExpectOneLine("reason=\"the call has no message\"");
}

}  // namespace
}  // namespace lorica
