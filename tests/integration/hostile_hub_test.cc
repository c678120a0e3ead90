// Goal: whatever a hub answers, the call for that adapter has its code in time; somebody else's
// stream goes on, and neither files nor sockets are left.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "adapters/sha256.h"
#include "gmock/gmock.h"
#include "tests/fakes/disk_room.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/free_port.h"
#include "tests/fakes/made_certificate.h"
#include "tests/integration/bystander.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using testing::Each;

constexpr char kWeights[] = "adapter_model.safetensors";

class HostileHub : public BystanderTest {
 protected:
  HostileHub() {
    AnswersWithin(kFetchedAnswerMax);
    config().hub_allow = "org/*";
    config().hub_endpoint = hub_.endpoint();
    config().hub_redirect_hosts = hub_.cdn_place();
    config().data_dir = data();
  }
  // Of a repository that nobody has asked for yet, with this fault for ever.
  StatusCode CodeWith(HubFault fault) {
    const std::string repo = NewRepo();
    hub_.ClearFaults();
    fault.times = -1;
    hub_.AddFault(std::move(fault));
    const StatusCode code = CodeOfAdapter(repo);
    hub_.ClearFaults();
    return code;
  }
  static HubFault Redirect(const std::string& location) {
    return {.method = "GET", .status = 302, .headers = {{"Location", location}}};
  }
  static HubFault Refusal(int status, const std::string& code) {
    return {.status = status, .headers = {{"X-Error-Code", code}}};
  }
  FakeHub::Files Files(const std::string& adapter) {
    return FakeHub::FilesOf(server().adapters().path() + "/" + adapter);
  }
  std::string NewRepo() { return NewRepo(Files("plain")); }
  std::string NewRepo(const FakeHub::Files& files) {
    const std::string repo = absl::StrCat("org/new-", repos_++);
    hub_.Commit(repo, files);
    return repo;
  }
  // With weights that no other has, so that they can be told apart where blobs lie.
  struct OwnRepo {
    std::string repo;
    std::string adapter;  // the same in the local folder
    std::string blob;     // where its weights lie
  };
  OwnRepo NewRepoOfItsOwn() {
    const std::string adapter = absl::StrCat("made-", repos_);
    WriteTinyAdapter(server().adapters(), adapter, 4, false, /*seed=*/repos_ + 1);
    const FakeHub::Files files = Files(adapter);
    Sha256 hash;
    hash.Update(files.at(kWeights));
    return {NewRepo(files), adapter, absl::StrCat("/blobs/", hash.Finish())};
  }
  StatusCode CodeWithToken(const std::string& repo, const std::string& token) {
    return CodeOf([&](v1::GenerateRequest& request) {
      request.set_adapter_id(repo);
      request.set_hub_token(token);
    });
  }

  FakeHub hub_;
  int repos_ = 0;
};

// Row 74.
TEST_F(HostileHub, WhatIsTooLargeIsRefusedBeforeItsDownload) {
  config().hub_adapter_bytes = 1000;
  EXPECT_EQ(CodeOfAdapter(NewRepo()), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(hub_.CountOf("/blobs/", "GET"), 0);
}

// Row 74.
TEST_F(HostileHub, WhatIsLargerThanTheDiskIsRefusedBeforeItsDownload) {
  config().disk_bytes = 1000;
  EXPECT_EQ(CodeOfAdapter(NewRepo()), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(hub_.CountOf("/blobs/", "GET"), 0);
}

// Row 74.
TEST_F(HostileHub, WhatTheDiskHasNoRoomForIsRefusedBeforeItsDownload) {
  const std::string repo = NewRepo();
  fakes::g_disk_bytes_left = 1000;
  EXPECT_EQ(CodeOfAdapter(repo), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(hub_.CountOf("/blobs/", "GET"), 0);
  fakes::g_disk_bytes_left = -1;
  EXPECT_EQ(CodeOfAdapter(NewRepo()), StatusCode::OK);
}

// Row 76.
TEST_F(HostileHub, Refusals) {
  EXPECT_EQ(CodeWith(Refusal(404, "RepoNotFound")), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWith(Refusal(404, "RevisionNotFound")), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWith(Refusal(404, "EntryNotFound")), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(CodeWith(Refusal(401, "")), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWith(Refusal(403, "GatedRepo")), StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(CodeWith(Refusal(410, "")), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWith(Refusal(416, "")), StatusCode::FAILED_PRECONDITION);
  for (const char* wait : {"1000", "1000000000", "Fri, 01 Jan 2100 00:00:00 GMT"}) {
    EXPECT_EQ(CodeWith({.status = 429, .headers = {{"Retry-After", wait}}}),
              StatusCode::UNAVAILABLE)
        << wait;
  }
  for (const int status : {500, 502, 503, 504}) {
    EXPECT_EQ(CodeWith({.status = status, .headers = {{"Retry-After", "1000"}}}),
              StatusCode::UNAVAILABLE)
        << status;
  }
  for (const char* wait : {"0", "garbage"}) {
    const std::string repo = NewRepo();
    hub_.AddFault({.status = 429, .headers = {{"Retry-After", wait}}});
    EXPECT_EQ(CodeOfAdapter(repo), StatusCode::OK) << "busy once, " << wait;
  }
}

// Rows 77 and 78: nothing is followed to where the operator did not say.
TEST_F(HostileHub, RedirectsToElsewhere) {
  for (const char* location :
       {"http://169.254.169.254/latest/meta-data/", "http://[::1]:1/", "http://10.0.0.1/",
        "http://[::ffff:127.0.0.1]:1/", "http://0.0.0.0:1/", "file:///etc/passwd",
        "ftp://127.0.0.1/x", "http://user:pass@127.0.0.1:1/", "http://[fe80::1%25lo]/x",
        "\\\\host\\share", "/loop", ""}) {
    EXPECT_EQ(CodeWith(Redirect(location)), StatusCode::FAILED_PRECONDITION) << location;
  }
}

// Row 79.
TEST_F(HostileHub, HeadsThatLackWhatNamesTheContent) {
  for (const char* commit : {"", "main", "../../x"}) {
    EXPECT_EQ(CodeWith({.headers = {{"X-Repo-Commit", commit}}}), StatusCode::FAILED_PRECONDITION)
        << commit;
  }
  for (const std::string& tag : {std::string(), std::string("\"../../etc/passwd\""),
                                 std::string("W/\"x\""), std::string(64 << 10, 'a')}) {
    EXPECT_EQ(CodeWith({.headers = {{"ETag", tag}, {"X-Linked-ETag", tag}}}),
              StatusCode::FAILED_PRECONDITION)
        << tag.substr(0, 20);
  }
}

// Rows 80 and 82.
TEST_F(HostileHub, BodiesThatAreOthers) {
  const std::vector<std::pair<HubFault, StatusCode>> bodies = {
      {{.corrupt_at = 100}, StatusCode::DATA_LOSS},
      {{.endless = true}, StatusCode::DATA_LOSS},
      {{.headers = {{"Content-Length", ""}}, .surplus = 1000}, StatusCode::DATA_LOSS},
      {{.headers = {{"Content-Length", "100"}}}, StatusCode::DATA_LOSS},
      {{.headers = {{"Content-Encoding", "gzip"}}}, StatusCode::FAILED_PRECONDITION},
      // What is beyond its length is not read; without one it ends with its connection.
      {{.surplus = 1000}, StatusCode::OK},
      {{.headers = {{"Content-Length", ""}}}, StatusCode::OK}};
  std::vector<std::thread> callers;
  for (auto [fault, code] : bodies) {
    const OwnRepo own = NewRepoOfItsOwn();
    fault.target_part = own.blob;
    fault.times = -1;
    hub_.AddFault(fault);
    callers.emplace_back(
        [this, own, code = code] { EXPECT_EQ(CodeOfAdapter(own.repo), code) << own.repo; });
  }
  for (std::thread& caller : callers) caller.join();
}

// Rows 81 and 82: wrong once, or where the rest is asked for, and the right bytes in the end.
TEST_F(HostileHub, WhatIsWrongOnceIsFetchedAgain) {
  const std::vector<std::vector<HubFault>> faults = {
      {{.corrupt_at = 100}},
      {{.cut_at = 1000}},
      {{.cut_at = 1000}, {.ignores_range = true}},
      {{.cut_at = 1000}, {.status = 416}},
      {{.cut_at = 1000}, {.headers = {{"Content-Range", "bytes 5-9/10"}}}}};
  std::vector<std::thread> callers;
  for (const std::vector<HubFault>& in_turn : faults) {
    const OwnRepo own = NewRepoOfItsOwn();
    for (HubFault fault : in_turn) {
      fault.target_part = own.blob;
      hub_.AddFault(std::move(fault));
    }
    callers.emplace_back(
        [this, own] { EXPECT_EQ(TokensOf(own.repo), TokensOf(own.adapter)) << own.repo; });
  }
  for (std::thread& caller : callers) caller.join();
}

// Row 83.
TEST_F(HostileHub, OneCommitIsServedWholeOrNone) {
  const std::string repo = NewRepo();
  std::string newer;
  hub_.AddFault({.target_part = kWeights, .method = "HEAD", .before = [&] {
                   newer = hub_.Commit(repo, Files("other"));
                 }});
  EXPECT_EQ(TokensOf(repo), TokensOf("plain")) << "the branch moved after its first file";
  ASSERT_NE(newer, "");
  EXPECT_EQ(TokensOf(absl::StrCat(repo, "@", newer)), TokensOf("other"));
  const std::string another(40, 'c');
  EXPECT_EQ(CodeWith({.target_part = kWeights, .headers = {{"X-Repo-Commit", another}}}),
            StatusCode::FAILED_PRECONDITION);
}

// Takes connections and never says a word.
class SilentListener {
 public:
  SilentListener() {
    place_ = absl::StrCat("127.0.0.1:", BindToLoopback(fd_));
    listen(fd_, 8);
  }
  ~SilentListener() { close(fd_); }
  const std::string& place() const { return place_; }

 private:
  const int fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string place_;
};

// Row 84: each in another step. Who asks waits until its own deadline, and others do not wait.
TEST_F(HostileHub, WhatStallsHoldsUpItsOwnCallsAlone) {
  constexpr absl::Duration kPatience = absl::Seconds(1);
  auto silent = std::make_unique<SilentListener>();
  config().hub_redirect_hosts = absl::StrCat(hub_.cdn_place(), ",", silent->place());
  std::vector<std::string> repos;
  const auto stalled = [&](HubFault fault, bool of_weights) {
    const OwnRepo own = NewRepoOfItsOwn();
    repos.push_back(own.repo);
    fault.times = -1;
    fault.target_part = of_weights ? own.blob : absl::StrCat("/", own.repo, "/");
    hub_.AddFault(std::move(fault));
  };
  constexpr absl::Duration kDrip = absl::Seconds(1);
  stalled({.stall_head = true}, false);
  stalled({.byte_delay = kDrip, .head_drip = true}, false);
  stalled({.stall_head = true}, true);
  stalled({.stall_at = 2700}, true);  // of some 2,900
  stalled({.byte_delay = kDrip}, true);
  stalled({.method = "GET",
           .status = 302,
           .headers = {{"Location", absl::StrCat("https://", silent->place(), "/x")}}},
          false);
  std::vector<StatusCode> codes(repos.size());
  std::vector<std::thread> callers;
  for (size_t i = 0; i < repos.size(); ++i) {
    callers.emplace_back([&, i] {
      const absl::Time begun = absl::Now();
      v1::GenerateRequest request = TokensRequest(2);
      request.set_adapter_id(repos[i]);
      Context context;
      context.set_deadline(absl::ToChronoTime(begun + kPatience));
      v1::GenerateResponse response;
      codes[i] = server().inference().Generate(&context, request, &response).error_code();
      EXPECT_LT(absl::Now() - begun, kPatience + kAnswerMax) << i;
    });
  }
  server().WaitFor([&](const v1::GetStatusResponse& status) {
    return status.fetches().under_way() == std::ssize(repos);
  });
  EXPECT_EQ(TokensOf(NewRepo()), TokensOf("plain")) << "another one of the hub";
  for (std::thread& caller : callers) caller.join();
  EXPECT_THAT(codes, Each(StatusCode::DEADLINE_EXCEEDED));
  hub_.ClearFaults();
  silent = nullptr;
  for (const std::string& repo : repos) EXPECT_EQ(CodeOfAdapter(repo), StatusCode::OK) << repo;
}

// Rows 85 and 88: what is here is served, whatever became of the hub's.
TEST_F(HostileHub, WhatIsHereOutlivesItsRepository) {
  const std::string repo = NewRepo();
  const std::vector<int32_t> tokens = TokensOf(repo);
  hub_.Delete(repo);
  EXPECT_EQ(TokensOf(repo), tokens);
  hub_.AddFault({.times = -1, .status = 503, .headers = {{"Retry-After", "1000"}}});
  EXPECT_EQ(TokensOf(repo), tokens);
  EXPECT_EQ(CodeOfAdapter("org/never-here"), StatusCode::UNAVAILABLE);
  hub_.ClearFaults();
  for (const auto& change : {std::function<void(const std::string&)>(
                                 [&](const std::string& name) { hub_.Rename(name, "org/away"); }),
                             std::function<void(const std::string&)>([&](const std::string& name) {
                               hub_.SetAccess(name, HubAccess::kPrivate, "hf_of_its_owner");
                             }),
                             std::function<void(const std::string&)>([&](const std::string& name) {
                               hub_.Delete(name);
                               hub_.Commit(name, Files("other"));
                             })}) {
    const std::string another = NewRepo();
    EXPECT_EQ(TokensOf(another), tokens);
    change(another);
    EXPECT_EQ(TokensOf(another), tokens);
  }
}

// Row 85.
TEST_F(HostileHub, OfflineNobodyIsAsked) {
  config().hub_offline = true;
  EXPECT_EQ(CodeOfAdapter(NewRepo()), StatusCode::NOT_FOUND);
  EXPECT_TRUE(hub_.requests().empty());
}

// Row 87.
TEST_F(HostileHub, ATokenOpensWhatItOpensForItsOwnCallsAlone) {
  LeavesUnnamed(1);  // to who has no token
  const std::string repo = NewRepo();
  hub_.SetAccess(repo, HubAccess::kPrivate, "hf_right");
  const std::string others = NewRepo();
  hub_.SetAccess(others, HubAccess::kPrivate, "hf_of_another");
  for (const std::string& none :
       {std::string("with blank"), std::string("line\n"), std::string(5000, 't')}) {
    EXPECT_EQ(CodeWithToken(repo, none), StatusCode::INVALID_ARGUMENT) << none.substr(0, 20);
  }
  EXPECT_TRUE(hub_.requests().empty());
  EXPECT_EQ(CodeWithToken(repo, ""), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWithToken(repo, "hf_of_another"), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWithToken(repo, "hf_wrong"), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(CodeWithToken(repo, "hf_right"), StatusCode::OK);
  EXPECT_EQ(CodeWithToken(others, "hf_of_another"), StatusCode::OK);
  EXPECT_EQ(CodeWithToken(repo, ""), StatusCode::NOT_FOUND) << "though it is here now";
  EXPECT_EQ(CodeWithToken(repo, "hf_of_another"), StatusCode::NOT_FOUND);
  // Taken back between the two files.
  const std::string revoked = NewRepo();
  hub_.SetAccess(revoked, HubAccess::kPrivate, "hf_once");
  hub_.AddFault({.target_part = kWeights,
                 .before = [&] { hub_.SetAccess(revoked, HubAccess::kPrivate, "hf_newer"); }});
  EXPECT_EQ(CodeWithToken(revoked, "hf_once"), StatusCode::FAILED_PRECONDITION);
}

// Row 90: where it fails, all are told so by one look.
TEST_F(HostileHub, ManyCallsForWhatIsNotThereAreOneLook) {
  hub_.AddFault({.status = 404, .headers = {{"X-Error-Code", "RepoNotFound"}}});
  constexpr char kRepo[] = "org/not-yet";
  hub_.Commit(kRepo, Files("plain"));
  std::vector<std::thread> callers;
  for (int i = 0; i < 50; ++i) {
    callers.emplace_back([&] { EXPECT_EQ(CodeOfAdapter(kRepo), StatusCode::NOT_FOUND); });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(hub_.CountOf(kRepo), 1);
}

class HostileTls : public BystanderTest {
 protected:
  // Of the hub's own weights, at another place that has this certificate.
  StatusCode CodeAt(const std::string& location) {
    const std::string repo = absl::StrCat("org/new-", repos_++);
    hub_.Commit(repo, FakeHub::FilesOf(server().adapters().path() + "/plain"));
    hub_.ClearFaults();
    if (!location.empty()) {
      hub_.AddFault({.target_part = kWeights,
                     .method = "GET",
                     .times = -1,
                     .status = 302,
                     .headers = {{"Location", location}}});
    }
    return CodeOfAdapter(repo);
  }
  TlsFiles Made(const std::string& name, const std::string& host, absl::Duration life) {
    return MakeCertificate(folder_, name, host, absl::Now() + life);
  }
  std::string Text(const TlsFiles& tls) {
    std::ifstream file(tls.certificate);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  TemporaryFolder folder_;
  const TlsFiles good_ = Made("good", "127.0.0.1", absl::Hours(24));
  FakeHub hub_{good_};
  int repos_ = 0;
};

// Row 86.
TEST_F(HostileTls, WhatDoesNotProveWhoItIsGetsNoConnection) {
  AnswersWithin(kFetchedAnswerMax);
  const TlsFiles expired = Made("expired", "127.0.0.1", -absl::Hours(1));
  const TlsFiles elsewhere = Made("elsewhere", "hub.example", absl::Hours(24));
  const TlsFiles unknown = Made("unknown", "127.0.0.1", absl::Hours(24));
  TlsFiles old = good_;
  old.old = true;
  folder_.Write("ca.pem", absl::StrCat(Text(good_), Text(expired), Text(elsewhere)));
  std::atomic<int> asked = 0;
  const WireServer::Handler handler = [&asked](const WireRequest&, WireServer::Connection& out) {
    ++asked;
    out.Send(WireHead(404, {{"Content-Length", "0"}}));
  };
  std::vector<std::unique_ptr<WireServer>> places;
  for (const TlsFiles& tls : {expired, elsewhere, unknown, old}) {
    places.push_back(std::make_unique<WireServer>(handler, tls));
  }
  WireServer plain(handler);
  config().hub_allow = "org/*";
  config().hub_endpoint = hub_.endpoint();
  config().hub_ca_file = folder_.path() + "/ca.pem";
  config().hub_redirect_hosts = absl::StrCat(hub_.cdn_place(), ",", plain.place());
  for (const auto& place : places)
    absl::StrAppend(&config().hub_redirect_hosts, ",", place->place());
  config().data_dir = data();
  EXPECT_EQ(CodeAt(""), StatusCode::OK);
  for (const auto& place : places) {
    EXPECT_EQ(CodeAt("https://" + place->place() + "/x"), StatusCode::FAILED_PRECONDITION);
  }
  EXPECT_EQ(CodeAt("http://" + plain.place() + "/x"), StatusCode::FAILED_PRECONDITION)
      << "from https to http";
  EXPECT_EQ(asked, 0);
}

// Row 86: neither has a hub that nobody vouches for.
TEST_F(HostileTls, AHubThatNobodyVouchesForIsNotAsked) {
  AnswersWithin(kFetchedAnswerMax);
  config().hub_allow = "org/*";
  config().hub_endpoint = hub_.endpoint();
  config().data_dir = data();
  EXPECT_EQ(CodeAt(""), StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(hub_.requests().empty());
}

// Row 90: the first one leaves, all others are served by the one download.
TEST_F(HostileHub, ManyCallsForOneColdAdapterAreOneDownload) {
  constexpr int kOthers = 100;
  const std::string repo = NewRepo();
  absl::Notification go_on;
  hub_.AddFault(
      {.target_part = "/blobs/", .method = "GET", .before = [&] { go_on.WaitForNotification(); }});
  const auto wait_until_waiting = [this](int calls) {
    server().WaitFor(
        [calls](const v1::GetStatusResponse& status) { return status.waiting() == calls; });
  };
  Context first;
  std::thread leaver([&] {
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id(repo);
    v1::GenerateResponse response;
    const grpc::Status status = server().inference().Generate(&first, request, &response);
    EXPECT_EQ(status.error_code(), StatusCode::CANCELLED) << status.error_message();
  });
  wait_until_waiting(1);
  std::vector<std::thread> callers;
  for (int i = 0; i < kOthers; ++i) {
    callers.emplace_back([&] { EXPECT_EQ(CodeOfAdapter(repo), StatusCode::OK); });
  }
  wait_until_waiting(1 + kOthers);
  server().WaitFor(
      [this](const v1::GetStatusResponse&) { return hub_.CountOf("/blobs/", "GET") == 1; });
  first.TryCancel();
  leaver.join();
  wait_until_waiting(kOthers);
  go_on.Notify();
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(hub_.CountOf("/blobs/", "GET"), 1);
}

}  // namespace
}  // namespace lorica
