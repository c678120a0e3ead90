// Goal: whoever sends calls or frames in masses over gRPC costs himself his connection, the server
// a bounded time, and nobody's calls, also not those that share his connection.
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "server/api/go_away.h"
#include "server/api/reset_guard.h"
#include "tests/fakes/raw_http2.h"
#include "tests/integration/neighbours.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

constexpr char kStream[] = "/lorica.v1.InferenceService/GenerateStream";
// Of a neighbour's call. Alone it takes some milliseconds; sanitizers and busy machines more.
const absl::Duration kUnaffected = kInstrumentationFactor * absl::Seconds(4);

// Of the server, in processor time, for a whole flood and the neighbours beside it.
constexpr absl::Duration kFloodTime = absl::Seconds(10);

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
          {"settings", "", same(Frame(FrameType::kSettings, 0, 0, "")), 100'000, false},
          {"empty data", opened, same(Frame(FrameType::kData, 0, 1, "")), 100'000, false},
          {"empty continuation",
           Frame(FrameType::kHeaders, 0, 1, "\x83\x86" + Literal(":path", kStream)),
           same(Frame(FrameType::kContinuation, 0, 1, "")), 100'000, false},
          {"window overflow", opened,
           same(Frame(FrameType::kWindowUpdate, 0, 0, BigEndian(0x7fffffff, 4))), 4, false},
          {"priority loop", "",
           [](int i) {
             return Frame(FrameType::kPriority, 0, 3, BigEndian(i % 2 == 0 ? 3 : 5, 4) + "\1");
           },
           100'000, false},
          {"no frame at all", "", same(std::string(1000, '\xff')), 100, true},
          {"a frame too large", "", same(BigEndian(0xffffff, 3) + std::string("\0\0\0\0\0\1", 6)),
           1, true}};
}

void PrintTo(const Flood& flood, std::ostream* out) { *out << flood.name; }

class GrpcFloods : public FloodedServer, public ::testing::WithParamInterface<Flood> {};

TEST_P(GrpcFloods, CostTheirOwnConnectionAndBoundedTime) {
  const Flood& flood = GetParam();
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
    if (flood.closed && !closed) closed = connection.ClosedWithin(absl::Seconds(10));
    EXPECT_TRUE(closed || !flood.closed) << server_->Log();
  }
  const absl::Duration took = absl::Now() - began;
  neighbours.Check(kUnaffected);
  neighbours.ExpectNothingLeft(absl::Seconds(30));
  const absl::Duration used = neighbours.ProcessorTime();
  std::printf("%-30s %s after %.1f s, %.1f s of processor time, neighbours waited %.1f s\n",
              flood.name, closed ? "closed" : "open  ", absl::ToDoubleSeconds(took),
              absl::ToDoubleSeconds(used), absl::ToDoubleSeconds(neighbours.Longest()));
  EXPECT_LT(used, kFloodTime);
}

INSTANTIATE_TEST_SUITE_P(Kinds, GrpcFloods, ::testing::ValuesIn(Floods()), [](const auto& info) {
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

// It may be a proxy's: calls that are open go on to their ends, and then it ends.
TEST_F(FloodedServer, AConnectionThatFloodsIsAskedToGoAwayAndItsOpenCallsEndWhole) {
  constexpr int kOpen = 8;
  constexpr uint32_t kWindowBytes = 1 << 20;
  RawConnection connection(port_);
  const std::string no_window = BigEndian(4, 2) + BigEndian(0, 4);  // so they stay open
  connection.Send(Preface() + Frame(FrameType::kSettings, 0, 0, no_window) +
                  Frame(FrameType::kSettings, 1, 0, "") +
                  Frame(FrameType::kWindowUpdate, 0, 0, BigEndian(kOpen * kWindowBytes, 4)));
  uint32_t stream = 1;
  std::string windows;
  for (int i = 0; i < kOpen; ++i, stream += 2) {
    connection.Send(CallHeaders(stream, kStream) +
                    MessageData(stream, TokensRequest(400).SerializeAsString()));
    windows += Frame(FrameType::kWindowUpdate, 0, stream, BigEndian(kWindowBytes, 4));
  }
  // Open calls that have their trailers.
  const auto ended = [&] {
    const std::string& heard = connection.heard();
    int count = 0;
    for (size_t at = 0; at + 9 <= heard.size();) {
      const auto byte = [&](size_t i) { return static_cast<uint8_t>(heard[at + i]); };
      const uint32_t id = byte(7) << 8 | byte(8);
      const bool trailers = byte(3) == static_cast<uint8_t>(FrameType::kHeaders) &&
                            (byte(4) & kEndStream) != 0 && byte(5) == 0 && byte(6) == 0;
      if (trailers && id < 2 * kOpen) ++count;
      at += 9 + (byte(0) << 16 | byte(1) << 8 | byte(2));
    }
    return count;
  };
  const auto flood = [&](int calls) {
    std::string bytes;
    for (int i = 0; i < calls; ++i, stream += 2) {
      bytes += CallHeaders(stream, kStream) + Frame(FrameType::kReset, 0, stream, BigEndian(8, 4));
    }
    ASSERT_TRUE(connection.Send(bytes));
  };
  const auto flood_until = [&](const std::string& go_away) {
    for (int i = 0; i < 100 && !connection.WaitFor(go_away, absl::Milliseconds(10)); ++i) flood(50);
    ASSERT_TRUE(connection.WaitFor(go_away, absl::Seconds(5))) << server_->Log();
  };
  const std::string later =
      Frame(FrameType::kGoAway, 0, 0, BigEndian(0x7fffffff, 4) + BigEndian(0, 4));
  flood(kEarlyResetsMax);
  EXPECT_FALSE(connection.WaitFor(later, absl::Milliseconds(100)));
  flood_until(later);
  flood_until(BigEndian(11, 4) + "too many calls");  // ENHANCE_YOUR_CALM
  EXPECT_EQ(ended(), 0);
  EXPECT_TRUE(connection.Send(windows));
  EXPECT_TRUE(connection.ClosedWithin(absl::Seconds(60))) << server_->Log();
  EXPECT_EQ(ended(), kOpen);
}

}  // namespace
}  // namespace lorica
