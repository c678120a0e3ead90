// Goal: a killed server is back soon with all that it acknowledged, a mistake in its files keeps
// the old ones and cuts nobody; and nothing of it is left.
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <atomic>
#include <filesystem>
#include <optional>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "adapters/sha256.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/raw_http2.h"
#include "tests/integration/server_process.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using absl::StatusCode;
using Tokens = std::vector<int32_t>;

// Of the call of somebody who must not notice.
const absl::Duration kUnaffected = kInstrumentationFactor * absl::Seconds(4);
constexpr absl::Duration kStartMax = absl::Seconds(10);
const absl::Duration kCutMax = kInstrumentationFactor * absl::Seconds(5);  // until who is cut knows

v1::GenerateRequest Request(const std::string& adapter, int tokens) {
  v1::GenerateRequest request = TokensRequest(tokens);
  request.set_adapter_id(adapter);
  return request;
}

// Who streams from the same server, again and again, and must not notice: each answer is whole,
// the first one's, and in time.
class Streams {
 public:
  explicit Streams(const ServerProcess& server)
      : client_(server.NewClient()), first_(Ask()), thread_([this] {
          while (!stop_) {
            EXPECT_EQ(Ask(), first_);
            ++answers_;
          }
        }) {}
  ~Streams() {
    stop_ = true;
    thread_.join();
  }
  // Until the one that runs now has ended, and one that began after it.
  void WaitForTwo() const {
    const int wanted = answers_ + 2;
    const absl::Time end = absl::Now() + 2 * kUnaffected;
    while (answers_ < wanted && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_GE(answers_, wanted);
  }

 private:
  Tokens Ask() const {
    Tokens tokens;
    const absl::Time begun = absl::Now();
    const absl::Status status = client_->GenerateStream(
        Request("plain", 400),
        [&tokens](const v1::GenerateStreamResponse& chunk) {
          tokens.insert(tokens.end(), chunk.token_ids().begin(), chunk.token_ids().end());
          return true;
        },
        {.timeout = absl::Seconds(20)});
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(tokens.size(), 400u);
    EXPECT_LT(absl::Now() - begun, kUnaffected);
    return tokens;
  }

  const std::unique_ptr<LoricaClient> client_;
  const Tokens first_;
  std::atomic<bool> stop_{false};
  std::atomic<int> answers_{0};
  std::thread thread_;  // last: it uses all the others
};

class ProcessFaults : public ::testing::Test {
 protected:
  ProcessFaults() { WriteTinyAdapter(adapters_, "plain", 4, false); }
  std::unique_ptr<ServerProcess> StartOn(const std::string& data,
                                         const std::vector<std::string>& flags,
                                         const std::string& key = "") {
    ServerProcess::Options options;
    options.client.api_key = key;
    options.client.retry.attempts_max = 1;
    options.client.connect_wait = kUnaffected;  // less than kCutMax
    options.model = TinyModelPath();
    options.adapters_dir = adapters_.path();
    options.data_dir = data;
    options.flags = {"--threads", "1", "--arena-bytes", "16MiB", "--http-address", "127.0.0.1:0"};
    options.flags.insert(options.flags.end(), flags.begin(), flags.end());
    options.start_limit = kStartMax;
    auto server = ServerProcess::Start(options);
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? *std::move(server) : nullptr;
  }
  void Start(const std::vector<std::string>& flags = {}) {
    std::vector<std::string> all = {"--hub-allow",          "org/*",
                                    "--hub-endpoint",       hub_.endpoint(),
                                    "--hub-redirect-hosts", hub_.cdn_place()};
    all.insert(all.end(), flags.begin(), flags.end());
    server_ = StartOn(data_.path(), all);
    ASSERT_NE(server_, nullptr);
  }
  Tokens TokensOf(const std::string& adapter, int tokens) {
    const auto results = GenerateAll(*server_, {Request(adapter, tokens)}, 1);
    EXPECT_TRUE(results[0].status.ok()) << adapter << results[0].status;
    return results[0].token_ids;
  }
  // Until the log says `line` once more.
  static void HangUp(const ServerProcess& server, const std::string& line) {
    const auto pieces = [&] {
      return std::vector<std::string>(absl::StrSplit(server.Log(), line)).size();
    };
    const size_t wanted = pieces() + 1;
    server.Signal(SIGHUP);
    const absl::Time end = absl::Now() + kCutMax;
    while (pieces() < wanted && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
    EXPECT_EQ(pieces(), wanted) << line << server.Log();
  }
  // Of files that are on their way.
  int Unfinished() const {
    std::error_code error;
    const fs::directory_iterator files(data_.path() + "/fetched/tmp", error);
    return static_cast<int>(std::distance(begin(files), end(files)));
  }

  FakeHub hub_;
  TemporaryFolder adapters_;
  TemporaryFolder data_;
  std::unique_ptr<ServerProcess> server_;
};

// Row 107: among streams, fetches and registrations. No stream outlives a process that is killed,
// so there is nobody beside it who must not notice: who is cut is told so in time.
TEST_F(ProcessFaults, AKilledServerIsBackSoonWithWhatItAcknowledged) {
  constexpr int kKills = 6;
  for (int i = 0; i < kKills * 4; ++i) {
    const std::string id = absl::StrCat("made-", i);
    WriteTinyAdapter(adapters_, id, 64, false, i);
    hub_.Commit("org/" + id, FakeHub::FilesOf(adapters_.path() + "/" + id));
  }
  ASSERT_NO_FATAL_FAILURE(Start());
  const Tokens alone = TokensOf("plain", 400);
  std::vector<std::string> acknowledged;
  std::mt19937 random(107);
  for (int kill = 0; kill < kKills; ++kill) {
    std::vector<std::thread> callers;
    callers.emplace_back([&] {
      const auto client = server_->NewClient();
      absl::StatusOr<v1::GenerateResponse> answer = v1::GenerateResponse();
      while (answer.ok()) {
        answer = client->Generate(Request("plain", 400), {.timeout = absl::Seconds(20)});
        if (!answer.ok()) continue;
        EXPECT_EQ(Tokens(answer->token_ids().begin(), answer->token_ids().end()), alone);
      }
      EXPECT_EQ(answer.status().code(), StatusCode::kUnavailable) << answer.status();
    });
    callers.emplace_back([&, kill] {
      const auto client = server_->NewClient();
      for (int i = 0; i < 4; ++i) {
        v1::RegisterAdapterRequest request;
        request.set_adapter_id(absl::StrCat("name-", kill, "-", i));
        request.set_source(absl::StrCat("org/made-", kill * 4 + i));
        if (!client->RegisterAdapter(request).ok()) return;
        acknowledged.push_back(request.adapter_id());
      }
    });
    absl::SleepFor(absl::Milliseconds(random() % 150));
    server_->Signal(SIGKILL);
    ASSERT_EQ(server_->WaitForExit(kCutMax), 128 + SIGKILL);
    const absl::Time killed = absl::Now();
    for (std::thread& caller : callers) caller.join();
    EXPECT_LT(absl::Now() - killed, kCutMax) << "who is cut is told";
    ASSERT_NO_FATAL_FAILURE(Start());
    EXPECT_EQ(Unfinished(), 0);
    EXPECT_EQ(TokensOf("plain", 400), alone);
  }
  for (const std::string& id : acknowledged) {
    v1::GetAdapterRequest request;
    request.set_adapter_id(id);
    const auto adapter = server_->NewClient()->GetAdapter(request);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    const std::string source = adapter->adapter().source();  // org/made-N@commit
    EXPECT_EQ(TokensOf(id, 8), TokensOf(source.substr(4, source.find('@') - 4), 8)) << id;
  }
}

// Row 110: among streams that run and that wait, and a call whose adapter never comes. The streams
// are those that must not notice: what was taken ends whole, and the process with it.
TEST_F(ProcessFaults, ATerminatedServerEndsWhatItTookAndTakesNoMore) {
  constexpr int kRunning = 4, kCallers = 7;
  hub_.Commit("org/stalled", FakeHub::FilesOf(adapters_.path() + "/plain"));
  hub_.AddFault({.target_part = "/blobs/", .times = -1, .stall_head = true});
  ASSERT_NO_FATAL_FAILURE(Start({"--running-requests", absl::StrCat(kRunning)}));
  const Tokens alone = TokensOf("plain", 400);
  std::atomic<int> answers = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; ++i) {
    callers.emplace_back([&] {
      const auto client = server_->NewClient();
      for (;;) {
        Tokens tokens;
        const absl::Status status = client->GenerateStream(
            Request("plain", 400), [&tokens](const v1::GenerateStreamResponse& chunk) {
              tokens.insert(tokens.end(), chunk.token_ids().begin(), chunk.token_ids().end());
              return true;
            });
        if (!status.ok()) {
          EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status;
          EXPECT_TRUE(tokens.empty()) << "cut after " << tokens.size();
          return;
        }
        EXPECT_EQ(tokens, alone);
        ++answers;
      }
    });
  }
  callers.emplace_back([&] {
    const absl::Status status = server_->NewClient()->Generate(Request("org/stalled", 4)).status();
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status;
  });
  const auto client = server_->NewClient();
  for (bool busy = false; !busy;) {
    const auto status = client->GetStatus();
    ASSERT_TRUE(status.ok()) << status.status();
    busy = status->running() == kRunning && status->queued() > 0 && status->waiting() == 1 &&
           answers > kCallers;
  }
  server_->Signal(SIGTERM);
  const absl::Time told = absl::Now();
  for (std::thread& caller : callers) caller.join();
  EXPECT_LT(absl::Now() - told, 2 * kCutMax) << "those that were taken, and one call more";
  EXPECT_EQ(server_->WaitForExit(kCutMax), 0) << server_->Log();
  EXPECT_EQ(Unfinished(), 0);
  hub_.ClearFaults();
  ASSERT_NO_FATAL_FAILURE(Start());
  EXPECT_EQ(TokensOf("plain", 400), alone);
  EXPECT_EQ(TokensOf("org/stalled", 400), alone);
}

// Settings without pause, of which each is acknowledged to a peer that reads nothing: the library
// has something to write then, and would wait for it to be read.
TEST_F(ProcessFaults, ATerminatedServerWaitsForNobodyWhoReadsNothing) {
  ASSERT_NO_FATAL_FAILURE(Start({"--drain-seconds", "1"}));
  const int port = server_->port();
  HttpSocket socket(port, /*receive_bytes=*/4096);
  const timeval patience{1, 0};
  ::setsockopt(socket.descriptor(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  const std::string settings = Frame(FrameType::kSettings, 0, 0, "");
  std::string many = Preface();
  while (many.size() < 32 << 20) many += settings;
  socket.Send(many);  // until no more is taken
  server_->Signal(SIGTERM);
  EXPECT_EQ(server_->WaitForExit(kCutMax), 0) << server_->Log();
}

// Row 110: while somebody streams.
TEST_F(ProcessFaults, AHangUpWithAMistakeKeepsTheOldFileAndCutsNobody) {
  Sha256 hash;
  hash.Update("the-key");
  const std::string good =
      absl::StrCat("{\"tenants\": [{\"name\": \"acme\", \"role\": \"operator\", \"adapters\": ",
                   "[\"*\"], \"keys\": [\"", hash.Finish(), "\"]}]}");
  TemporaryFolder folder;
  folder.Write("tenants.json", good);
  const auto server =
      StartOn(data_.path(), {"--tenants-file", folder.path() + "/tenants.json"}, "the-key");
  ASSERT_NE(server, nullptr);
  const auto open_files = [&server] {
    const fs::directory_iterator files(absl::StrCat("/proc/", server->pid(), "/fd"));
    return std::distance(begin(files), end(files));
  };
  std::optional<Streams> streams(std::in_place, *server);
  const auto before = open_files();
  const auto hang_up = [&](const std::string& text, const std::string& line) {
    folder.Write("tenants.json", text);
    HangUp(*server, line);
    streams->WaitForTwo();
    EXPECT_EQ(server->NewClient()->Generate(Request("plain", 1)).status(), absl::OkStatus());
  };
  for (const char* wrong : {"", "{\"tenants\": [{]}", "{\"tenants\": 5}"}) {
    hang_up(wrong, "kept the old file");
  }
  hang_up(good, "read the files again");
  streams.reset();
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (open_files() > before && absl::Now() < end) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_LE(open_files(), before);
}

TEST_F(ProcessFaults, AHangUpWithoutFilesSaysThatThereAreNone) {
  const auto server = StartOn(data_.path(), {}, "");
  ASSERT_NE(server, nullptr);
  const Streams streams(*server);
  HangUp(*server, "got SIGHUP: there are no files to read");
  streams.WaitForTwo();
}

}  // namespace
}  // namespace lorica
