// Goal: whatever a peer does to the gRPC port, its own call fails with the right code, in
// time, and nobody beside it notices; nothing is left behind.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "adapters/sha256.h"
#include "lorica/v1/inference.pb.h"
#include "server/api/grpc_service.h"
#include "server/api/reset_guard.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/raw_http2.h"
#include "tests/integration/neighbours.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using ::testing::AnyOf;

constexpr char kStream[] = "/lorica.v1.InferenceService/GenerateStream";
constexpr char kTokenize[] = "/lorica.v1.InferenceService/Tokenize";
// Of a neighbour's call. Alone it takes some milliseconds; sanitizers and busy machines more.
const absl::Duration kUnaffected = kInstrumentationFactor * absl::Seconds(4);

std::string Gzipped(const std::string& bytes) {
  z_stream stream{};
  constexpr int kGzip = 16;
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, MAX_WBITS + kGzip, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

class GrpcFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteTinyAdapter(adapters_, "plain", 4, false);
    Start({});
  }
  void Start(std::vector<std::string> flags, const std::string& key = "") {
    ServerProcess::Options options;
    options.client.api_key = key;
    options.model = TinyModelPath();
    options.adapters_dir = adapters_.path();
    options.flags = {"--http-address", "127.0.0.1:0", "--threads", "1", "--arena-bytes", "16MiB"};
    options.flags.insert(options.flags.end(), flags.begin(), flags.end());
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    port_ = server_->port();
    const absl::Status first = server_->NewClient()->Generate(TokensRequest(1)).status();
    ASSERT_TRUE(first.ok()) << first;
  }
  static std::string LongCall(int tokens) { return TokensRequest(tokens).SerializeAsString(); }

  // A unary call by its bytes; the code, or -1 where there is none.
  int CodeOf(const std::string& method, const std::string& message,
             const RawHeaders& metadata = {}) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxSendMessageSize(-1);
    arguments.SetInt("unique", ++channels_);
    grpc::GenericStub stub(grpc::CreateCustomChannel(
        server_->address(), grpc::InsecureChannelCredentials(), arguments));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    for (const auto& [name, value] : metadata) context.AddMetadata(name, value);
    grpc::CompletionQueue queue;
    const grpc::Slice slice(message);
    const grpc::ByteBuffer bytes(&slice, 1);
    auto call = stub.PrepareUnaryCall(&context, method, bytes, &queue);
    call->StartCall();
    grpc::ByteBuffer reply;
    grpc::Status status;
    call->Finish(&reply, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status.error_code();
  }
  // grpc-status as it stands in a raw answer; -1: none came in time.
  static int StatusIn(RawConnection& connection, absl::Duration limit) {
    const std::string name = "grpc-status";
    if (!connection.WaitFor(name, limit)) return -1;
    const std::string& heard = connection.heard();
    const size_t value = heard.find(name) + name.size();
    const int bytes = value < heard.size() ? heard[value] : 0;
    return std::atoi(heard.substr(value + 1, bytes).c_str());
  }

  TemporaryFolder adapters_;
  std::unique_ptr<ServerProcess> server_;
  int port_ = 0;
  int channels_ = 0;
};

// Row 31. Without an acknowledgement of SETTINGS the library's own limit does not hold, and the
// time grows with the square of the size: beyond 1 MB it is a proxy's work (proxies_test).
TEST_F(GrpcFaults, HeadersBeyondTheLimitEndTheirOwnCall) {
  Neighbours neighbours(server_.get());
  for (const bool acknowledged : {true, false}) {
    RawConnection connection(port_);
    connection.Send(Preface());
    EXPECT_TRUE(connection.WaitFor(std::string("\4\0\0\0\0\0", 6), absl::Seconds(5)));
    if (acknowledged) connection.Send(Frame(FrameType::kSettings, 1, 0, ""));
    const absl::Time began = absl::Now();
    connection.Send(CallHeaders(1, kStream, {{"x-long", std::string(1 << 20, 'a')}}));
    connection.Send(MessageData(1, LongCall(1)));
    EXPECT_TRUE(connection.ClosedWithin(absl::Seconds(10)));
    EXPECT_LT(absl::Now() - began, absl::Seconds(10));
  }
  const std::string nearly(kMetadataBytesMax / 2, 'a');
  EXPECT_EQ(CodeOf(kTokenize, "\n\2hi", {{"x-long", nearly}}), grpc::StatusCode::OK);
  EXPECT_EQ(CodeOf(kTokenize, "\n\2hi", {{"x-long", std::string(kMetadataBytesMax, 'a')}}),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Row 34.
TEST_F(GrpcFaults, IdleAndHalfOpenConnectionsKeepNobodyOut) {
  Neighbours neighbours(server_.get());
  const int64_t before = server_->ResidentBytes();
  constexpr int kIdle = 10'000;
  {
    std::vector<std::unique_ptr<RawConnection>> idle;
    for (int i = 0; i < kIdle; ++i) idle.push_back(std::make_unique<RawConnection>(port_));
    const absl::Time began = absl::Now();
    ClientOptions patient;
    patient.server = server_->address();
    patient.connect_wait = kUnaffected;
    EXPECT_TRUE(LoricaClient(patient).Generate(TokensRequest(1)).ok());
    EXPECT_LT(absl::Now() - began, kUnaffected);
    RecordProperty("bytes_a_connection",
                   static_cast<int>((server_->ResidentBytes() - before) / kIdle));
    EXPECT_LT(server_->ResidentBytes() - before, kInstrumentationFactor * int64_t{512} << 20);
    // Who has not spoken HTTP/2 by then is let go.
    absl::SleepFor(kHandshakeMax - (absl::Now() - began));
    EXPECT_TRUE(idle.front()->ClosedWithin(absl::Seconds(10)));
    EXPECT_TRUE(idle.back()->ClosedWithin(absl::Seconds(10)));
  }
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(30));
}

// Row 35.
TEST_F(GrpcFaults, MessagesAreBoundedAlsoAfterTheyAreUnpacked) {
  constexpr int kWindowBytes = 65535;  // more would have to wait for the server
  constexpr int64_t kGrowthBytesMax = 32 << 20;
  const std::string bomb = Gzipped(std::string(56 << 20, '\0'));
  ASSERT_LT(bomb.size(), kWindowBytes - 100);
  Neighbours neighbours(server_.get());
  const auto message = [](int64_t bytes) {  // one unknown field, length in five bytes
    std::string length;
    for (int64_t rest = bytes - 6; length.size() < 5; rest >>= 7) {
      length += static_cast<char>((length.size() < 4 ? 0x80 : 0) | (rest & 0x7f));
    }
    return "\x7a" + length + std::string(bytes - 6, 'x');
  };
  const absl::Time began = absl::Now();
  EXPECT_EQ(CodeOf(kTokenize, message(kMessageBytesMax)), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(CodeOf(kTokenize, message(kMessageBytesMax + 1)), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const int64_t before = server_->ResidentBytes();
  const auto answered = [&](const char* encoding, const std::string& message) {
    RawConnection connection(port_);
    connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                    CallHeaders(1, kTokenize, {{"grpc-encoding", encoding}}) +
                    MessageData(1, message, /*end=*/true, /*compressed=*/true));
    return StatusIn(connection, absl::Seconds(5));
  };
  EXPECT_EQ(answered("gzip", bomb), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_LT(server_->ResidentBytes() - before, kInstrumentationFactor * kGrowthBytesMax)
      << "it was not unpacked";
  EXPECT_LT(absl::Now() - began, absl::Seconds(20));
  {
    // The library waits for all of it, within its window: nothing of that size is ever held.
    RawConnection connection(port_);
    connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") + CallHeaders(1, kTokenize) +
                        MessageData(1, std::string(64 << 20, 'a'), false, false, 0xffffffff),
                    absl::Seconds(5));
    EXPECT_LT(server_->ResidentBytes() - before, kInstrumentationFactor * int64_t{64} << 20);
  }
  EXPECT_EQ(answered("rot13", "abc"), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(answered("identity", "\n\2hi"), grpc::StatusCode::UNIMPLEMENTED);
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Rows 36 and 37: the window is never opened, or a byte at a time.
TEST_F(GrpcFaults, ReadersThatDoNotReadAreCutAndTheirBlocksAreFree) {
  Neighbours neighbours(server_.get());
  const absl::Time began = absl::Now();
  std::vector<std::unique_ptr<RawConnection>> readers;
  for (const uint32_t window : {0u, 0u, 0x7fffffffu, 0x7fffffffu}) {
    readers.push_back(std::make_unique<RawConnection>(port_));
    readers.back()->Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" +
                         Frame(FrameType::kSettings, 0, 0, BigEndian(4, 2) + BigEndian(window, 4)) +
                         Frame(FrameType::kSettings, 1, 0, "") + CallHeaders(1, kStream) +
                         MessageData(1, LongCall(480)));
  }
  const auto open = [&] {
    const auto status = server_->NewClient()->GetStatus();
    return status.ok() ? status->running() + status->queued() : -1;
  };
  // A slow one opens its window by a byte now and then.
  const auto read_slowly = [&] {
    readers[1]->Send(Frame(FrameType::kWindowUpdate, 0, 1, BigEndian(1, 4)));
    absl::SleepFor(absl::Milliseconds(500));
  };
  while (absl::Now() - began < kSlowReaderLimit + absl::Seconds(5)) read_slowly();
  neighbours.Check(kUnaffected);
  // The limit is that of a message. The first one is a few tokens and may just get through; all
  // others are waiting by then, and the next message, which is all of them, does not.
  while (open() != 0 && absl::Now() - began < 2 * kSlowReaderLimit + absl::Seconds(5)) {
    read_slowly();
  }
  EXPECT_EQ(open(), 0) << "all have ended or were cut";
  readers.clear();
  neighbours.ExpectNothingLeft();
}

// Row 38: queued, in the prefill, while decoding; each is free within two seconds.
TEST_F(GrpcFaults, ClientsThatVanishAreFreed) {
  Start({"--running-requests", "1"});
  Neighbours neighbours(server_.get());
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<RawConnection>> clients;
    for (int i = 0; i < 4; ++i) {
      clients.push_back(std::make_unique<RawConnection>(port_));
      clients.back()->Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                           CallHeaders(1, kStream) + MessageData(1, LongCall(480)));
    }
    absl::SleepFor(absl::Milliseconds(round));
    for (auto& client : clients) client->Cut();
  }
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(2));
}

// Row 38, in the middle of a load: of what is fetched, and of what is read from a local folder.
TEST_F(GrpcFaults, ClientsThatVanishWhileAnAdapterLoadsAreFreed) {
  FakeHub hub;
  hub.Commit("org/cold", FakeHub::FilesOf(adapters_.path() + "/plain"));
  absl::Notification go_on;
  hub.AddFault({.target_part = "/blobs/", .before = [&] { go_on.WaitForNotification(); }});
  constexpr int kLocal = 10;
  const auto local = [](int i) { return absl::StrCat("cold-", i); };
  for (int i = 0; i < kLocal; ++i) WriteTinyAdapter(adapters_, local(i), 256, false, i);
  Start({"--hub-allow", "org/*", "--hub-endpoint", hub.endpoint(), "--hub-redirect-hosts",
         hub.cdn_place()});
  Neighbours neighbours(server_.get());
  const auto clients_of = [&](const std::string& adapter) {
    v1::GenerateRequest request = TokensRequest(480);
    request.set_adapter_id(adapter);
    std::vector<std::unique_ptr<RawConnection>> clients;
    for (int i = 0; i < 4; ++i) {
      clients.push_back(std::make_unique<RawConnection>(port_));
      clients.back()->Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                           CallHeaders(1, kStream) + MessageData(1, request.SerializeAsString()));
    }
    return clients;
  };
  const auto wait_until = [&](int waiting, absl::Duration limit) {
    const absl::Time end = absl::Now() + limit;
    const auto client = server_->NewClient();
    auto status = client->GetStatus();
    while (status.ok() && status->waiting() != waiting && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(10));
      status = client->GetStatus();
    }
    ASSERT_TRUE(status.ok()) << status.status();
    EXPECT_EQ(status->waiting(), waiting);
    EXPECT_EQ(status->fetches().under_way(), 1) << "it goes on for whoever comes next";
  };
  auto clients = clients_of("org/cold");
  wait_until(4, absl::Seconds(10));
  for (auto& client : clients) client->Cut();
  wait_until(0, absl::Seconds(2));
  go_on.Notify();
  for (int i = 0; i < kLocal; ++i) {
    clients = clients_of(local(i));
    absl::SleepFor(absl::Milliseconds(i));
    for (auto& client : clients) client->Cut();
  }
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(2));
  std::vector<std::string> ids = {"org/cold"};
  for (int i = 0; i < kLocal; ++i) ids.push_back(local(i));
  for (const std::string& id : ids) {
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id(id);
    const absl::Status answer = server_->NewClient()->Generate(request).status();
    EXPECT_TRUE(answer.ok()) << id << answer;
  }
}

// Row 39: deadlines as they stand in the header.
TEST_F(GrpcFaults, DeadlinesOfEveryKind) {
  Neighbours neighbours(server_.get());
  const auto code = [&](const char* timeout) {
    RawConnection connection(port_);
    connection.Send(
        Preface() + Frame(FrameType::kSettings, 1, 0, "") +
        CallHeaders(1, kStream,
                    timeout == nullptr ? RawHeaders{} : RawHeaders{{"grpc-timeout", timeout}}) +
        MessageData(1, LongCall(480)));
    const absl::Time began = absl::Now();
    const int status = StatusIn(connection, absl::Seconds(10));
    EXPECT_LT(absl::Now() - began, absl::Seconds(5)) << (timeout == nullptr ? "none" : timeout);
    return status;
  };
  // A deadline that has passed may also be told as a reset by the library, before any status.
  for (const char* past : {"0n", "1n"}) {
    EXPECT_THAT(code(past), AnyOf(grpc::StatusCode::DEADLINE_EXCEEDED, -1)) << past;
  }
  EXPECT_THAT(code("1m"), AnyOf(grpc::StatusCode::DEADLINE_EXCEEDED, -1, grpc::StatusCode::OK));
  EXPECT_EQ(code(nullptr), grpc::StatusCode::OK);
  EXPECT_EQ(code("99999999H"), grpc::StatusCode::OK) << "eleven thousand years";
  // What is none is passed over by the library; of a nanosecond nothing would be left.
  for (const char* malformed :
       {"", "abc", "n", "1", "-1n", "+1n", "1.0n", "0x1n", "1N", "1nn", "n1", "\xff"}) {
    EXPECT_EQ(code(malformed), grpc::StatusCode::OK) << malformed;
  }
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Those of a client whose calls all end by their own short deadlines cost it no connection: its
// resets come when the server's clock says so, too. Others are asked to go away.
TEST_F(GrpcFaults, ShortDeadlinesCostNoConnection) {
  Start({"--running-requests", "1"});
  Neighbours neighbours(server_.get());
  constexpr int kOpen = 100;  // at a time
  constexpr int kRounds = kEarlyResetsMax / kOpen + 3;
  const std::string go_away = Frame(FrameType::kGoAway, 0, 0, BigEndian(0x7fffffff, 4)).substr(3);
  const auto stays = [&](const char* timeout, absl::Duration until_reset, int rounds) {
    RawConnection connection(port_);
    bool open = connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, ""));
    for (int round = 0; round < rounds && open; ++round) {
      std::string calls;
      std::string resets;
      for (int i = 0; i < kOpen; ++i) {
        const uint32_t stream = 2 * (round * kOpen + i) + 1;
        calls += CallHeaders(stream, kStream, {{"grpc-timeout", timeout}}) +
                 MessageData(stream, LongCall(480));
        resets += Frame(FrameType::kReset, 0, stream, BigEndian(8, 4));
      }
      open = connection.Send(calls);
      absl::SleepFor(until_reset);
      open = open && connection.Send(resets);
    }
    return open && !connection.WaitFor(go_away, absl::Seconds(1));
  };
  EXPECT_TRUE(stays("200m", absl::Milliseconds(250), kRounds));
  EXPECT_FALSE(stays("10S", absl::ZeroDuration(), 10 * kRounds)) << "those are early";
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(30));
}

// Row 41: a stream whose client never says that it has ended. The answer ends it; a call that
// never sends its message lives as long as its connection, which has an end as well.
TEST_F(GrpcFaults, CallsThatAreNeverHalfClosedEnd) {
  Start({"--connection-seconds", "2"});
  Neighbours neighbours(server_.get());
  {
    RawConnection connection(port_);
    connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") + CallHeaders(1, kStream) +
                    MessageData(1, LongCall(5), /*end=*/false) + CallHeaders(3, kStream));
    EXPECT_EQ(StatusIn(connection, absl::Seconds(5)), grpc::StatusCode::OK);
    const std::string go_away =
        std::string(1, static_cast<char>(FrameType::kGoAway)) + std::string(5, '\0');
    EXPECT_TRUE(connection.WaitFor(go_away, absl::Seconds(10)));
  }
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Row 42: other protocols on this port, and the log stays as it was.
TEST_F(GrpcFaults, OtherProtocolsAreClosedWithoutAWord) {
  Neighbours neighbours(server_.get());
  const size_t log = server_->Log().size();
  for (int round = 0; round < 200; ++round) {
    for (const std::string& bytes :
         {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
          std::string("\x16\x03\x01\x02\x00\x01\x00", 7), std::string(64, '\x7f'),
          std::string("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")}) {
      RawConnection connection(port_);
      connection.Send(bytes);
      if (round == 0) {
        EXPECT_TRUE(connection.ClosedWithin(absl::Seconds(25))) << bytes;
      }
    }
  }
  EXPECT_LT(server_->Log().size(), log + 4000) << "the log is not flooded";
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(30));
}

// Row 43.
TEST_F(GrpcFaults, WhatIsNotThereIsUnimplemented) {
  {
    Neighbours neighbours(server_.get());
    const absl::Time began = absl::Now();
    for (const char* method :
         {"/lorica.v1.InferenceService/None", "/none.Service/None", "/", "//"}) {
      EXPECT_EQ(CodeOf(method, ""), grpc::StatusCode::UNIMPLEMENTED) << method;
    }
    EXPECT_EQ(CodeOf("/grpc.health.v1.Health/Check", "\n\4none"), grpc::StatusCode::NOT_FOUND);
    EXPECT_LT(absl::Now() - began, absl::Seconds(5));
    neighbours.Check(kUnaffected);
    neighbours.ExpectNothingLeft();
  }
  Start({"--no-reflection"});
  EXPECT_EQ(CodeOf("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ""),
            grpc::StatusCode::UNIMPLEMENTED);
}

// Rows 44 and 45.
TEST_F(GrpcFaults, KeysAreAskedForAndAForgedTenantCountsForNothing) {
  TemporaryFolder folder;
  std::string tenants;
  for (const std::string name : {"app", "rich", "near"}) {
    Sha256 sum;
    sum.Update(name + "-key");
    absl::StrAppend(&tenants, tenants.empty() ? "" : ",", R"({"name": ")", name, R"(", "keys": [")",
                    sum.Finish(), R"("], "adapters": ["*"]})");
  }
  folder.Write("tenants.json", absl::StrCat(R"({"tenants": [)", tenants, "]}"));
  Start({"--tenants-file", folder.path() + "/tenants.json"}, "near-key");
  Neighbours neighbours(server_.get(), "near-key");
  const absl::Time began = absl::Now();
  const auto code = [this](const RawHeaders& metadata) {
    return CodeOf("/lorica.v1.InferenceService/Generate", LongCall(1), metadata);
  };
  const auto bearer = [](const std::string& key) {
    return std::pair<std::string, std::string>("authorization", "Bearer " + key);
  };
  EXPECT_EQ(code({bearer("app-key")}), grpc::StatusCode::OK);
  EXPECT_EQ(code({}), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(code({bearer("app-kez")}), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(code({bearer(std::string(5'000, 'k'))}), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(code({bearer(std::string(20'000, 'k'))}), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(code({bearer("app-key"), {"x-tenant-id", "rich"}}), grpc::StatusCode::OK);
  EXPECT_EQ(code({bearer("app-key"), {"x-tenant-id", "none"}}), grpc::StatusCode::OK);
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  ClientOptions rich;
  rich.server = server_->address();
  rich.api_key = "rich-key";
  const auto usage = LoricaClient(rich).GetUsage({});
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_EQ(usage->rows_size(), 0) << "nothing was charged to the forged tenant";
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

// Row 32: a header that cannot be decoded beside other connections.
TEST_F(GrpcFaults, ABrokenBinaryHeaderEndsItsOwnConnection) {
  Neighbours neighbours(server_.get());
  for (int i = 0; i < 50; ++i) {
    RawConnection connection(port_);
    connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                    CallHeaders(1, kStream, {{"x-bad-bin", "!!!***"}}) +
                    MessageData(1, LongCall(1)));
    if (i == 0) connection.ClosedWithin(absl::Seconds(5));
  }
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft();
}

}  // namespace
}  // namespace lorica
