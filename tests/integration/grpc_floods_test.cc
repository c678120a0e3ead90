// Goal: whoever sends calls or frames in masses over gRPC costs himself his connection, the server
// a bounded time, and nobody's calls, also not those that share his connection.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "server/api/call_backlog.h"
#include "server/api/reset_guard.h"
#include "tests/fakes/raw_http2.h"
#include "tests/integration/neighbours.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

constexpr char kStream[] = "/lorica.v1.InferenceService/GenerateStream";
// Of a neighbour's call. Alone it takes some milliseconds; sanitizers and busy machines more.
const absl::Duration kUnaffected = kInstrumentationFactor * absl::Seconds(4);

// A setting with which answers cannot be sent, so that calls stay open.
const std::string kNoWindow = BigEndian(4, 2) + BigEndian(0, 4);

// Of the server, in processor time, for a whole flood and the neighbours beside it.
constexpr absl::Duration kFloodTime = absl::Seconds(10);
constexpr int64_t kFloodBytes = 48 << 20;  // that it needs more
constexpr absl::Duration kLook = absl::Milliseconds(10);

// Of the server's process, the most it ever was.
int64_t PeakResidentBytes(const ServerProcess& server) {
  std::ifstream status(absl::StrCat("/proc/", server.pid(), "/status"));
  std::string field;
  int64_t kilobytes = 0;
  while (status >> field && field != "VmHWM:") {
  }
  status >> kilobytes;
  return kilobytes * 1024;
}

class FloodedServer : public ::testing::Test {
 protected:
  void SetUp() override {
    WriteTinyAdapter(adapters_, "plain", 4, false);
    ServerProcess::Options options;
    options.model = TinyModelPath();
    options.adapters_dir = adapters_.path();
    options.flags = {"--http-address", "127.0.0.1:0", "--threads", "1", "--arena-bytes", "16MiB"};
    auto server = ServerProcess::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    port_ = server_->port();
    const absl::Status first = server_->NewClient()->Generate(TokensRequest(1)).status();
    ASSERT_TRUE(first.ok()) << first;
  }

  TemporaryFolder adapters_;
  std::unique_ptr<ServerProcess> server_;
  int port_ = 0;
};

// Row 33, one kind after the other. Closed where the library or ResetGuard closes; bounded in time
// everywhere.
struct Flood {
  const char* name;
  std::string once;  // sent before
  std::function<std::string(int)> frame;
  int count;
  bool closed;  // the server ends the connection
};

std::vector<Flood> Floods() {
  const std::string opened = CallHeaders(1, kStream);
  const auto same = [](std::string frame) { return [frame](int) { return frame; }; };
  const auto reset = [](std::string method, std::string message, RawHeaders headers = {}) {
    return [method, message, headers](int i) {
      const uint32_t stream = 2 * i + 1;
      return CallHeaders(stream, method, headers) +
             (message.empty() ? "" : MessageData(stream, message, /*end=*/false)) +
             Frame(FrameType::kReset, 0, stream, BigEndian(8, 4));
    };
  };
  return {{"rapid reset", "", reset(kStream, ""), 100'000, true},
          {"rapid reset of whole calls", "", reset(kStream, TokensRequest(1).SerializeAsString()),
           100'000, true},
          {"rapid reset of unknown methods", "", reset("/none.Service/None", ""), 100'000, true},
          {"rapid reset with deadlines", "", reset(kStream, "", {{"grpc-timeout", "30m"}}), 100'000,
           true},
          {"ping", "", same(Frame(FrameType::kPing, 0, 0, "12345678")), 100'000, true},
          {"settings", "", same(Frame(FrameType::kSettings, 0, 0, "")), 1'000'000, false},
          {"empty data", opened, same(Frame(FrameType::kData, 0, 1, "")), 1'000'000, false},
          {"empty continuation",
           Frame(FrameType::kHeaders, 0, 1, "\x83\x86" + Literal(":path", kStream)),
           same(Frame(FrameType::kContinuation, 0, 1, "")), 1'000'000, true},
          {"window overflow", opened,
           same(Frame(FrameType::kWindowUpdate, 0, 0, BigEndian(0x7fffffff, 4))), 4, false},
          {"priority loop", "",
           [](int i) {
             return Frame(FrameType::kPriority, 0, 3, BigEndian(i % 2 == 0 ? 3 : 5, 4) + "\1");
           },
           1'000'000, false},
          {"no frame at all", "", same(std::string(1000, '\xff')), 100, true},
          {"a frame too large", "", same(BigEndian(0xffffff, 3) + std::string("\0\0\0\0\0\1", 6)),
           1, true}};
}

void PrintTo(const Flood& flood, std::ostream* out) { *out << flood.name; }

class GrpcFloods : public FloodedServer, public ::testing::WithParamInterface<Flood> {};

TEST_P(GrpcFloods, CostTheirOwnConnectionAndBoundedTime) {
  const Flood& flood = GetParam();
  const int64_t before = PeakResidentBytes(*server_);
  Neighbours neighbours(server_.get());
  const absl::Time began = absl::Now();
  bool closed = false;
  {
    RawConnection connection(port_);
    connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") + flood.once);
    std::string batch;
    for (int i = 0; i < flood.count && !closed; ++i) {
      batch += flood.frame(i);
      if (batch.size() < 60'000 && i + 1 < flood.count) continue;
      closed = !connection.Send(batch, absl::Seconds(60));
      batch.clear();
    }
    if (flood.closed) {
      closed = closed || connection.ClosedWithin(absl::Seconds(10));
      EXPECT_TRUE(closed) << server_->Log();
    } else {  // then all of it was read
      connection.Send(Frame(FrameType::kPing, 0, 0, "that-all"));
      EXPECT_TRUE(connection.WaitFor(Frame(FrameType::kPing, 1, 0, "that-all"), kUnaffected));
    }
  }
  const absl::Duration took = absl::Now() - began;
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(30));
  const absl::Duration used = neighbours.ProcessorTime();
  const int64_t grown_bytes = PeakResidentBytes(*server_) - before;
  std::printf(
      "%-30s %s after %.1f s, %.1f s of processor time, %d MiB more, neighbours waited %.1f s\n",
      flood.name, closed ? "closed" : "open  ", absl::ToDoubleSeconds(took),
      absl::ToDoubleSeconds(used), static_cast<int>(grown_bytes >> 20),
      absl::ToDoubleSeconds(neighbours.Longest()));
  EXPECT_LT(used, kFloodTime);
  EXPECT_LT(grown_bytes, kInstrumentationFactor * kFloodBytes);
}

INSTANTIATE_TEST_SUITE_P(Kinds, GrpcFloods, ::testing::ValuesIn(Floods()), [](const auto& info) {
  return absl::StrReplaceAll(info.param.name, {{" ", "_"}});
});

// One call as a flood has it, on a stream.
struct Call {
  const char* name;
  std::function<std::string(uint32_t)> bytes;
};

std::vector<Call> Calls() {
  const auto reset = [](uint32_t stream) {
    return Frame(FrameType::kReset, 0, stream, BigEndian(8, 4));
  };
  const auto whole = [](const char* method) {
    return [method](uint32_t i) { return CallHeaders(i, method) + MessageData(i, ""); };
  };
  constexpr uint8_t kNoFlag = 0x80;  // for which the server resets the call itself
  return {{"reset of unknown methods",
           [=](uint32_t i) { return CallHeaders(i, "/none.A/B") + reset(i); }},
          {"reset", [=](uint32_t i) { return CallHeaders(i, kStream) + reset(i); }},
          {"faulty frame",
           [](uint32_t i) {
             return CallHeaders(i, kStream) + Frame(FrameType::kData, kNoFlag, i, "");
           }},
          {"unknown method", whole("/none.A/B")},
          {"ping", [](uint32_t) { return Frame(FrameType::kPing, 0, 0, "12345678"); }},
          {"settings", [](uint32_t) { return Frame(FrameType::kSettings, 0, 0, ""); }},
          {"list", whole("/lorica.v1.AdapterService/ListAdapters")},
          {"watch", whole("/grpc.health.v1.Health/Watch")}};
}

void PrintTo(const Call& call, std::ostream* out) { *out << call.name; }

class GrpcFloodsOfMany : public FloodedServer, public ::testing::WithParamInterface<Call> {};

// Sends calls until it is hung up on, and begins again, until `end`. Returns how many.
int64_t FloodUntil(absl::Time end, int port, const Call& call) {
  int64_t calls = 0;
  while (absl::Now() < end) {
    RawConnection connection(port);
    bool open = connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, ""));
    for (uint32_t stream = 1; open && absl::Now() < end;) {
      std::string batch;
      for (; batch.size() < 16'000; stream += 2, ++calls) batch += call.bytes(stream);
      open = connection.Send(batch);
    }
  }
  return calls;
}

TEST_P(GrpcFloodsOfMany, TakeBoundedMemoryAndKeepNobodyWaiting) {
  constexpr int kConnections = 20;
  constexpr int64_t kMemoryBytes = 400 << 20;
  const int64_t before = PeakResidentBytes(*server_);
  Neighbours neighbours(server_.get());
  std::vector<std::thread> floods;
  std::atomic<int64_t> calls{0};
  const absl::Time end = absl::Now() + absl::Seconds(4);
  for (int i = 0; i < kConnections; ++i) {
    floods.emplace_back([&] { calls += FloodUntil(end, port_, GetParam()); });
  }
  for (std::thread& flood : floods) flood.join();
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(30));
  const int64_t took = PeakResidentBytes(*server_) - before;
  std::printf("%-30s %d calls, %d MiB more, neighbours waited %.1f s\n", GetParam().name,
              static_cast<int>(calls), static_cast<int>(took >> 20),
              absl::ToDoubleSeconds(neighbours.Longest()));
  EXPECT_LT(took, kInstrumentationFactor * kMemoryBytes);
}

INSTANTIATE_TEST_SUITE_P(Kinds, GrpcFloodsOfMany, ::testing::ValuesIn(Calls()),
                         [](const auto& info) {
                           return absl::StrReplaceAll(info.param.name, {{" ", "_"}});
                         });

// Calls with next to no time may end before their head is looked at, and name no peer then: a
// client that takes back a call now and then is not taken for theirs.
TEST_F(FloodedServer, AFloodOfCallsThatNameNobodyCostsNobodyElsesConnection) {
  const auto reset = [](uint32_t stream, const char* timeout) {
    return CallHeaders(stream, kStream, {{"grpc-timeout", timeout}}) +
           Frame(FrameType::kReset, 0, stream, BigEndian(8, 4));
  };
  for (const char* timeout : {"1n", "1m", "3m"}) {
    RawConnection bystander(port_);
    RawConnection flood(port_);
    for (RawConnection* one : {&bystander, &flood}) {
      one->Send(Preface() + Frame(FrameType::kSettings, 1, 0, ""));
    }
    bool flooding = true;
    uint32_t stream = 1;
    for (int batch = 0; batch < 40 && flooding; ++batch) {
      EXPECT_TRUE(bystander.Send(reset(stream, "10S")));
      std::string calls;
      for (int call = 0; call < 250; ++call, stream += 2) calls += reset(stream, timeout);
      flooding = flood.Send(calls, absl::Seconds(10));
    }
    EXPECT_FALSE(bystander.ClosedWithin(absl::Seconds(1))) << timeout << server_->Log();
  }
}

// What is kept of calls and of who resets them goes with them; of who was asked to go away for a
// while longer (go_away_test).
TEST_F(FloodedServer, LeavesNothingInTheBooks) {
  const auto held = [this](const std::string& of) {
    const std::string page = HttpCall(server_->http_port(), "GET", "/metrics").body;
    const std::string line = absl::StrCat("lorica_held_entries{of=\"", of, "\"} ");
    const size_t at = page.find(line);
    return at == std::string::npos ? -1 : std::atoi(page.c_str() + at + line.size());
  };
  constexpr int kOpen = 20;
  {
    RawConnection connection(port_);
    connection.Send(Preface() + Frame(FrameType::kSettings, 0, 0, kNoWindow));
    for (int i = 0; i < kOpen + kEarlyResetsPerSecond; ++i) {
      connection.Send(CallHeaders(2 * i + 1, kStream));
      if (i >= kOpen) connection.Send(Frame(FrameType::kReset, 0, 2 * i + 1, BigEndian(8, 4)));
    }
    const absl::Time end = absl::Now() + kUnaffected;
    while (held("peers_with_resets") != 1 && absl::Now() < end) absl::SleepFor(kLook);
    EXPECT_EQ(held("peers_with_resets"), 1);
    EXPECT_GE(held("grpc_calls"), kOpen);
  }
  const absl::Time end = absl::Now() + absl::Seconds(1) + kUnaffected;
  while (held("grpc_calls") + held("peers_with_resets") > 0 && absl::Now() < end) {
    absl::SleepFor(kLook);
  }
  for (const char* of : {"grpc_calls", "peers_with_resets", "peers_asked_to_go"}) {
    EXPECT_EQ(held(of), 0) << of;
  }
}

// Of who never acknowledges the server's settings: it may begin some before it has heard of them.
TEST_F(FloodedServer, WhoHasNotHeardOfALimitMayHaveSoManyCallsOpenAndNoMore) {
  RawConnection connection(port_);
  const auto call = [](int i) {
    return CallHeaders(2 * i + 1, kStream) +
           MessageData(2 * i + 1, TokensRequest(4).SerializeAsString());
  };
  connection.Send(Preface() + Frame(FrameType::kSettings, 0, 0, kNoWindow));
  for (int i = 0; i < kStreamsUntoldMax; ++i) {
    connection.Send(call(i));
    if (i % 64 == 0) connection.ClosedWithin(absl::Milliseconds(20));  // messages wait for turns
  }
  EXPECT_FALSE(connection.ClosedWithin(absl::Seconds(1))) << server_->Log();
  connection.Send(call(kStreamsUntoldMax));
  EXPECT_TRUE(connection.ClosedWithin(absl::Seconds(10)));
  EXPECT_THAT(server_->Log(),
              HasSubstr("too many calls of a connection have not ended, more than 1024, or"));
}

// Calls that are open on a connection that floods: it may be a proxy's.
class CallsBesideAFlood : public FloodedServer {
 protected:
  static constexpr int kOpen = 8;
  static constexpr uint32_t kWindowBytes = 1 << 20;

  void SetUp() override {
    FloodedServer::SetUp();
    connection_ = std::make_unique<RawConnection>(port_);
    connection_->Send(Preface() + Frame(FrameType::kSettings, 0, 0, kNoWindow) +
                      Frame(FrameType::kSettings, 1, 0, "") +
                      Frame(FrameType::kWindowUpdate, 0, 0, BigEndian(kOpen * kWindowBytes, 4)));
    for (int i = 0; i < kOpen; ++i, stream_ += 2) {
      connection_->Send(CallHeaders(stream_, kStream) +
                        MessageData(stream_, TokensRequest(400).SerializeAsString()));
    }
  }
  // Lets the open calls go on to their ends.
  bool GiveWindows() {
    std::string windows;
    for (int i = 0; i < kOpen; ++i) {
      windows += Frame(FrameType::kWindowUpdate, 0, 2 * i + 1, BigEndian(kWindowBytes, 4));
    }
    return connection_->Send(windows);
  }
  // Open calls that have their trailers.
  int Ended() const {
    const std::string& heard = connection_->heard();
    int count = 0;
    for (size_t at = 0; at + 9 <= heard.size();) {
      const auto byte = [&](size_t i) { return static_cast<uint8_t>(heard[at + i]); };
      const uint32_t id = byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8);
      const bool trailers =
          byte(3) == static_cast<uint8_t>(FrameType::kHeaders) && (byte(4) & kEndStream) != 0;
      if (trailers && id < 2 * kOpen) ++count;
      at += 9 + (byte(0) << 16 | byte(1) << 8 | byte(2));
    }
    return count;
  }
  bool Flood(const std::string& method, int calls) {
    std::string bytes;
    for (int i = 0; i < calls; ++i, stream_ += 2) {
      bytes += CallHeaders(stream_, method) + Frame(FrameType::kReset, 0, stream_, BigEndian(8, 4));
    }
    return connection_->Send(bytes);
  }
  bool HeardWithin(const std::string& go_away, absl::Duration limit) {
    return connection_->WaitFor(go_away, limit);
  }

  const std::string later_ =
      Frame(FrameType::kGoAway, 0, 0, BigEndian(0x7fffffff, 4) + BigEndian(0, 4));
  const std::string now_ = BigEndian(11, 4) + "too many calls";  // ENHANCE_YOUR_CALM
  std::unique_ptr<RawConnection> connection_;
  uint32_t stream_ = 1;
};

TEST_F(CallsBesideAFlood, EndWholeAndThenTheirConnection) {
  ASSERT_TRUE(Flood(kStream, kEarlyResetsMax));
  EXPECT_FALSE(HeardWithin(later_, absl::Milliseconds(100)));
  for (const std::string& go_away : {later_, now_}) {
    for (int i = 0; i < 100 && !HeardWithin(go_away, absl::Milliseconds(10)); ++i) {
      ASSERT_TRUE(Flood(kStream, 50));
    }
    ASSERT_TRUE(HeardWithin(go_away, absl::Seconds(5))) << server_->Log();
  }
  EXPECT_EQ(Ended(), 0);
  EXPECT_TRUE(GiveWindows());
  EXPECT_TRUE(connection_->ClosedWithin(absl::Seconds(60))) << server_->Log();
  EXPECT_EQ(Ended(), kOpen);
}

// Which may have their answers before their resets are read, so that it is not asked to end.
TEST_F(CallsBesideAFlood, OfMethodsThatAreNotThereEndWholeToo) {
  for (int i = 0; i < 20 && !HeardWithin(now_, absl::Milliseconds(1)); ++i) {
    ASSERT_TRUE(Flood("/none.A/B", 2000));
  }
  EXPECT_EQ(Ended(), 0);
  EXPECT_TRUE(GiveWindows());
  const absl::Time end = absl::Now() + absl::Seconds(60);
  while (Ended() < kOpen && absl::Now() < end) connection_->ClosedWithin(absl::Milliseconds(50));
  EXPECT_EQ(Ended(), kOpen) << server_->Log();
}

}  // namespace
}  // namespace lorica
