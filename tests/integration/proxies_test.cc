// Goal: behind nginx and HAProxy, with the configurations of deploy/, an adapter's calls go
// to one replica, a replica may die or drain, and long prompts take the same way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/fakes/free_port.h"
#include "tests/fakes/raw_http2.h"
#include "tests/fakes/subprocess.h"
#include "tests/integration/server_process.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using absl::StatusCode;
using ::testing::AnyOf;
using ::testing::HasSubstr;

const int kClientsAttempts = RetryOptions().attempts_max;
constexpr char kStream[] = "/lorica.v1.InferenceService/GenerateStream";
constexpr int kReplicas = 3;
constexpr int kAdapters = 24;
constexpr int64_t kLongPromptBytes = 300'000;
constexpr absl::Duration kDrainNotice = absl::Seconds(5);  // HAProxy asks twice, a second apart

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

// What HAProxy answers to a command on its socket; empty if it cannot be reached.
std::string AskHaproxy(const std::string& path, const std::string& command) {
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  std::string answer;
  if (::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
      ::send(socket, command.data(), command.size(), MSG_NOSIGNAL) > 0) {
    char part[4096];
    for (ssize_t got; (got = ::recv(socket, part, sizeof(part), 0)) > 0;) answer.append(part, got);
  }
  ::close(socket);
  return answer;
}

std::string NameOf(int adapter) { return absl::StrCat("a", adapter); }

class ProxiesTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    program_ = absl::StrCat("/usr/sbin/", GetParam());
    if (::access(program_.c_str(), X_OK) != 0) GTEST_SKIP() << "no " << program_;
    for (int i = 0; i < kAdapters; ++i) WriteTinyAdapter(adapters_, NameOf(i), 4, false);
    for (int i = 0; i < kReplicas; ++i) {
      ServerProcess::Options options;
      options.model = TinyModelPath();
      options.adapters_dir = adapters_.path();
      options.flags = {"--http-address", "127.0.0.1:0", "--threads",          "1",
                       "--arena-bytes",  "16MiB",       "--running-requests", "2"};
      options.flags.insert(options.flags.end(), {"--drain-notice-seconds",
                                                 absl::StrCat(absl::ToInt64Seconds(kDrainNotice))});
      auto server = ServerProcess::Start(options);
      ASSERT_TRUE(server.ok()) << server.status();
      replicas_.push_back(*std::move(server));
    }
    StartProxy();
  }

  void StartProxy() {
    grpc_port_ = FreePort();
    http_port_ = FreePort();
    const bool nginx = std::string(GetParam()) == "nginx";
    std::string text = ReadFile(absl::StrCat(LORICA_SOURCE_DIR "/deploy/", GetParam(),
                                             nginx ? "/nginx.conf" : "/haproxy.cfg"));
    std::vector<std::pair<std::string, std::string>> places = {
        {"127.0.0.1:50050", absl::StrCat("127.0.0.1:", grpc_port_)},
        {"127.0.0.1:8000", absl::StrCat("127.0.0.1:", http_port_)}};
    for (int i = 0; i < kReplicas; ++i) {
      places.emplace_back(absl::StrCat("127.0.0.1:5005", i + 1), replicas_[i]->address());
      places.emplace_back(absl::StrCat("127.0.0.1:808", i + 1),
                          absl::StrCat("127.0.0.1:", replicas_[i]->http_port()));
    }
    if (nginx) {  // what an installed one has in /var
      std::string paths = "http {\n";
      for (const char* kind : {"client_body", "proxy", "fastcgi", "uwsgi", "scgi"}) {
        absl::StrAppend(&paths, "    ", kind, "_temp_path ", folder_.path(), "/", kind, ";\n");
      }
      places.emplace_back("\nhttp {\n", "\n" + paths);
      if (::geteuid() == 0) places.emplace_back("events {", "user root;\nevents {");
    } else {
      places.emplace_back("\nglobal\n",
                          absl::StrCat("\nglobal\n    stats socket ", haproxy_socket(), "\n"));
    }
    folder_.Write("config", absl::StrReplaceAll(text, places));
    const std::string config = folder_.path() + "/config";
    const std::vector<std::string> check =
        nginx ? std::vector<std::string>{program_, "-t", "-c", config, "-g", Globals()}
              : std::vector<std::string>{program_, "-c", "-f", config};
    const RunResult checked = RunToEnd(check);
    ASSERT_EQ(checked.code, 0) << checked.output << checked.error;
    proxy_ = std::make_unique<Subprocess>(
        nginx ? std::vector<std::string>{program_, "-c", config, "-g", Globals() + " daemon off;"}
              : std::vector<std::string>{program_, "-db", "-f", config});
    const absl::Time end = absl::Now() + absl::Seconds(10);
    while (HttpCall(http_port_, "GET", "/health").status != 200 && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    ASSERT_EQ(HttpCall(http_port_, "GET", "/health").status, 200) << proxy_->error();
  }
  std::string Globals() const {
    return absl::StrCat("pid ", folder_.path(), "/pid; error_log ", folder_.path(), "/error;");
  }
  void TearDown() override {
    if (proxy_ == nullptr) return;
    proxy_->Signal(SIGTERM);
    proxy_->Wait();
  }

  // Streams through the proxy that have to be whole when this ends.
  class Beside {
   public:
    Beside(const ProxiesTest* test, int streams) {
      for (int i = 0; i < streams; ++i) threads_.emplace_back([=] { test->ReadWhole(i); });
    }
    ~Beside() {
      for (std::thread& thread : threads_) thread.join();
    }

   private:
    std::vector<std::thread> threads_;
  };
  void ReadWhole(int i) const {
    constexpr int kTokens = 200;
    int tokens = 0;
    const absl::Status status = NewClient()->GenerateStream(Request(NameOf(i % kAdapters), kTokens),
                                                            [&tokens](const auto& chunk) {
                                                              tokens += chunk.token_ids_size();
                                                              return true;
                                                            });
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(tokens, kTokens);
  }

  static v1::GenerateRequest Request(const std::string& adapter, int tokens) {
    v1::GenerateRequest request = TokensRequest(tokens);
    request.set_adapter_id(adapter);
    return request;
  }
  std::unique_ptr<LoricaClient> NewClient(int attempts = 1) const {
    ClientOptions options;
    options.server = absl::StrCat("127.0.0.1:", grpc_port_);
    options.retry.attempts_max = attempts;
    return std::make_unique<LoricaClient>(options);
  }
  // Calls that each living replica has taken.
  std::map<int, int64_t> Taken() const {
    std::map<int, int64_t> taken;
    for (int i = 0; i < kReplicas; ++i) {
      if (i == gone_) continue;
      const auto status = replicas_[i]->NewClient()->GetStatus();
      EXPECT_TRUE(status.ok()) << status.status();
      taken[i] = status->counters().requests_accepted() + status->counters().requests_refused();
    }
    return taken;
  }
  std::string haproxy_socket() const { return folder_.path() + "/socket"; }
  // HAProxy's bound on a replica's load counts a call until a moment after its answer. Who calls
  // within that moment is sent to the next replica, as the only running call is all of the load.
  void WaitUntilNothingRuns() const {
    if (std::string(GetParam()) != "haproxy") return;
    const absl::Time end = absl::Now() + absl::Seconds(10);
    int64_t running = -1;
    while (running != 0 && absl::Now() < end) {
      running = 0;
      constexpr int kServerLines = 4;
      const std::string table =
          AskHaproxy(haproxy_socket(), absl::StrCat("show stat -1 ", kServerLines, " -1\n"));
      for (const absl::string_view line : absl::StrSplit(table, '\n')) {
        const std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
        constexpr size_t kRunningSessions = 4;  // "scur"
        int64_t sessions = 0;
        if (fields.size() > kRunningSessions &&
            absl::SimpleAtoi(fields[kRunningSessions], &sessions)) {
          running += sessions;
        }
      }
      if (table.empty()) running = -1;
    }
    EXPECT_EQ(running, 0);
  }
  // Which replica takes what `call` sends; -1: more than one did.
  int OwnerOf(const std::function<void()>& call) const {
    WaitUntilNothingRuns();
    const auto before = Taken();
    call();
    int owner = -1;
    for (const auto& [replica, taken] : Taken()) {
      if (taken == before.at(replica)) continue;
      if (owner >= 0) return -1;
      owner = replica;
    }
    return owner;
  }
  HttpAnswer Post(const std::string& adapter, const std::string& inputs) const {
    const nlohmann::json body = {
        {"inputs", inputs},
        {"parameters", {{"adapter_id", adapter}, {"max_new_tokens", 2}, {"truncate", 64}}}};
    return HttpCall(http_port_, "POST", "/generate", body.dump(), {{"x-adapter-id", adapter}});
  }
  // Adapter to replica, over gRPC.
  std::vector<int> Owners() const {
    const auto client = NewClient(3);
    std::vector<int> owners;
    for (int i = 0; i < kAdapters; ++i) {
      owners.push_back(OwnerOf([&] {
        for (int times = 0; times < 3; ++times) {
          WaitUntilNothingRuns();
          const auto answer = client->Generate(Request(NameOf(i), 1));
          EXPECT_TRUE(answer.ok()) << NameOf(i) << ": " << answer.status();
        }
      }));
    }
    return owners;
  }

  TemporaryFolder adapters_;
  TemporaryFolder folder_;
  std::string program_;
  std::vector<std::unique_ptr<ServerProcess>> replicas_;
  std::unique_ptr<Subprocess> proxy_;
  int grpc_port_ = 0;
  int http_port_ = 0;
  int gone_ = -1;
};

TEST_P(ProxiesTest, AnAdapterHasOneReplicaAndOnlyThoseOfADeadOneMove) {
  const std::vector<int> owners = Owners();
  std::map<int, int> share;
  for (int i = 0; i < kAdapters; ++i) {
    ASSERT_NE(owners[i], -1) << NameOf(i) << " went to several replicas";
    ++share[owners[i]];
  }
  EXPECT_EQ(share.size(), kReplicas);
  for (const auto& [replica, adapters] : share) EXPECT_GE(adapters, 2) << replica;
  // The same way for HTTP, and for a prompt that no proxy holds in one buffer.
  const std::string prompt(kLongPromptBytes, 'x');
  for (int i = 0; i < 6; ++i) {
    const int owner = OwnerOf([&] {
      for (const std::string& inputs : {std::string("hi"), prompt, prompt}) {
        WaitUntilNothingRuns();
        const HttpAnswer answer = Post(NameOf(i), inputs);
        EXPECT_EQ(answer.status, 200) << answer.body;
      }
    });
    EXPECT_NE(owner, -1) << NameOf(i);
  }
  for (int i = 0; i < 6; ++i) {
    v1::GenerateRequest request = Request(NameOf(i), 1);
    request.clear_token_ids();
    request.set_prompt(prompt);
    EXPECT_EQ(OwnerOf([&] {
                const auto answer = NewClient()->Generate(request);
                // It came through whole: the server itself counted its tokens.
                EXPECT_EQ(answer.status().code(), StatusCode::kInvalidArgument);
                EXPECT_THAT(std::string(answer.status().message()), HasSubstr("300000"));
              }),
              owners[i]);
  }

  gone_ = owners[0];
  replicas_[gone_]->Signal(SIGKILL);
  replicas_[gone_]->WaitForExit(absl::Seconds(5));
  const absl::Time killed = absl::Now();
  // Every call is answered from the first moment on.
  const std::vector<int> after = Owners();
  EXPECT_LT(absl::Now() - killed, absl::Seconds(20));
  for (int i = 0; i < kAdapters; ++i) {
    EXPECT_NE(after[i], -1) << NameOf(i);
    if (owners[i] != gone_) {
      EXPECT_EQ(after[i], owners[i]) << NameOf(i);
    }
  }
  EXPECT_EQ(Post(NameOf(0), "hi").status, 200);
}

// Nobody else notices, but for calls that cross its GOAWAY on their way from nginx.
TEST_P(ProxiesTest, AReplicaThatDrainsEndsItsStreamsAndItsAdaptersMove) {
  const std::string adapter = NameOf(0);
  const int owner = OwnerOf([&] { ASSERT_TRUE(NewClient()->Generate(Request(adapter, 1)).ok()); });
  ASSERT_NE(owner, -1);
  constexpr int kStreams = 12;
  std::atomic<int> whole{0};
  std::atomic<int> begun{0};
  std::vector<std::thread> streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.emplace_back([&] {
      int tokens = 0;
      const absl::Status status =
          NewClient()->GenerateStream(Request(adapter, 480), [&](const auto& chunk) {
            if (tokens == 0) begun.fetch_add(1);
            tokens += chunk.token_ids_size();
            return true;
          });
      EXPECT_TRUE(status.ok()) << status;
      if (tokens == 480) whole.fetch_add(1);
    });
  }
  while (begun.load() == 0) absl::SleepFor(absl::Milliseconds(1));
  // It cannot end before somebody reads this one.
  HttpSocket unread(replicas_[owner]->http_port(), /*receive_bytes=*/2048);
  const nlohmann::json long_answer = {
      {"inputs", "hi"},
      {"parameters",
       {{"max_new_tokens", 480}, {"ignore_eos_token", true}, {"return_k_alternatives", 20}}}};
  unread.Send(RequestBytes("POST", "/generate_stream", long_answer.dump()));
  unread.Read(absl::Seconds(20), "200 OK");
  replicas_[owner]->Signal(SIGTERM);
  const absl::Time end = absl::Now() + kDrainNotice + absl::Seconds(5);
  int failed = 0;
  int in_a_row = 0;
  while (absl::Now() < end) {
    const absl::Status status = NewClient()->Generate(Request(adapter, 1)).status();
    EXPECT_THAT(status.code(), AnyOf(StatusCode::kOk, StatusCode::kUnavailable)) << status;
    failed += status.ok() ? 0 : 1;
    in_a_row = status.ok() ? in_a_row + 1 : 0;
    EXPECT_EQ(Post(adapter, "hi").status, 200);
  }
  EXPECT_LE(failed, std::string(GetParam()) == "nginx" ? 1 : 0);
  EXPECT_GE(in_a_row, 20);
  EXPECT_EQ(replicas_[owner]->WaitForExit(absl::ZeroDuration()), -1) << "it ends its streams";
  unread.Close();
  for (std::thread& stream : streams) stream.join();
  EXPECT_EQ(whole.load(), kStreams);
  EXPECT_EQ(replicas_[owner]->WaitForExit(absl::Seconds(20)), 0);
}

// It asks nobody for its health, so it has to be told: then nothing crosses the drain.
class Nginx : public ProxiesTest {};

TEST_P(Nginx, DoesNotNoticeTheDrainOfAReplicaThatWasTakenOutBefore) {
  const std::string adapter = NameOf(0);
  const auto call = [&] {
    const absl::Status status = NewClient()->Generate(Request(adapter, 1)).status();
    EXPECT_TRUE(status.ok()) << status;
  };
  const int owner = OwnerOf(call);
  ASSERT_NE(owner, -1);
  std::vector<std::pair<std::string, std::string>> down;
  for (const std::string& place :
       {replicas_[owner]->address(), absl::StrCat("127.0.0.1:", replicas_[owner]->http_port())}) {
    down.emplace_back(absl::StrCat("server ", place, " "),
                      absl::StrCat("server ", place, " down "));
  }
  const std::string config = ReadFile(folder_.path() + "/config");
  folder_.Write("config", absl::StrReplaceAll(config, down));
  proxy_->Signal(SIGHUP);
  constexpr int kInARow = 20;  // old workers take their last connections meanwhile
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  for (int moved = 0; moved < kInARow && absl::Now() < limit;) {
    moved = OwnerOf(call) == owner ? 0 : moved + 1;
  }
  ASSERT_NE(OwnerOf(call), owner);
  gone_ = owner;
  replicas_[owner]->Signal(SIGTERM);
  const absl::Time end = absl::Now() + kDrainNotice + absl::Seconds(2);
  while (absl::Now() < end) {
    call();
    EXPECT_EQ(Post(adapter, "hi").status, 200);
  }
  EXPECT_EQ(replicas_[owner]->WaitForExit(absl::Seconds(20)), 0);
}

// What the library behind it would choke on does not reach it; 50 streams beside go on.
TEST_P(ProxiesTest, HeaderBombsAndBrokenHeadersStopAtTheProxy) {
  Beside beside(this, 50);
  for (const size_t mb : {1, 5, 20}) {
    RawConnection bomb(grpc_port_);
    const absl::Time began = absl::Now();
    const bool sent = bomb.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                                CallHeaders(1, kStream, {{"x-long", std::string(mb << 20, 'a')}}));
    EXPECT_TRUE(!sent || bomb.ClosedWithin(absl::Seconds(10))) << mb;
    EXPECT_LT(absl::Now() - began, absl::Seconds(10));
  }
  for (int i = 0; i < 5; ++i) {
    RawConnection broken(grpc_port_);
    broken.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                CallHeaders(1, kStream, {{"x-bad-bin", "!!!***"}}) +
                MessageData(1, Request("a0", 1).SerializeAsString()));
    broken.WaitFor("grpc-status", absl::Seconds(2));
  }
}

// Who resets calls in masses ends no stream that shares the proxy's connections to a server with
// him: such a connection is asked to end, and what is open on it goes on.
TEST_P(ProxiesTest, RapidResetsCutNobodyElsesStream) {
  Beside beside(this, 20);
  const absl::Time began = absl::Now();
  bool open = true;
  {
    RawConnection connection(grpc_port_);
    connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, ""));
    std::string batch;
    for (uint32_t i = 0; i < 100'000 && open; ++i) {
      batch += CallHeaders(2 * i + 1, kStream, {{"x-adapter-id", NameOf(i % kAdapters)}}) +
               Frame(FrameType::kReset, 0, 2 * i + 1, BigEndian(8, 4));
      if (batch.size() < 60'000) continue;
      open = connection.Send(batch, absl::Seconds(30));
      batch.clear();
    }
  }
  std::printf("%s: %s after %.1f s\n", GetParam(), open ? "open" : "closed",
              absl::ToDoubleSeconds(absl::Now() - began));
  EXPECT_LT(absl::Now() - began, absl::Seconds(60));
  for (int i = 0; i < kAdapters; ++i) {
    const absl::Time asked = absl::Now();
    const absl::Status status =
        NewClient(kClientsAttempts)->Generate(Request(NameOf(i), 1)).status();
    EXPECT_TRUE(status.ok()) << NameOf(i) << ": " << status;
    EXPECT_LT(absl::Now() - asked, absl::Seconds(10));
  }
}

INSTANTIATE_TEST_SUITE_P(Both, ProxiesTest, ::testing::Values("nginx", "haproxy"),
                         [](const auto& info) { return std::string(info.param); });

INSTANTIATE_TEST_SUITE_P(Alone, Nginx, ::testing::Values("nginx"));

}  // namespace
}  // namespace lorica
