// Goal: whatever a hub answers, the call for that adapter has its code in time; somebody else's
// stream goes on, and neither files nor sockets are left.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/fakes/fake_hub.h"
#include "tests/integration/bystander.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using testing::AnyOf;

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
  std::string NewRepo() {
    const std::string repo = absl::StrCat("org/new-", repos_++);
    hub_.Commit(repo, FakeHub::FilesOf(server().adapters().path() + "/plain"));
    return repo;
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

// Row 76.
TEST_F(HostileHub, Refusals) {
  EXPECT_EQ(CodeWith(Refusal(404, "RepoNotFound")), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWith(Refusal(404, "RevisionNotFound")), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWith(Refusal(404, "EntryNotFound")), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(CodeWith(Refusal(401, "")), StatusCode::NOT_FOUND);
  EXPECT_EQ(CodeWith(Refusal(403, "GatedRepo")), StatusCode::PERMISSION_DENIED);
  for (const char* wait : {"1000", "1000000000", "Fri, 01 Jan 2100 00:00:00 GMT"}) {
    EXPECT_EQ(CodeWith({.status = 429, .headers = {{"Retry-After", wait}}}),
              StatusCode::UNAVAILABLE)
        << wait;
  }
}

// Rows 77 and 78: nothing is followed to where the operator did not say.
TEST_F(HostileHub, RedirectsToElsewhere) {
  for (const char* location :
       {"http://169.254.169.254/latest/meta-data/", "http://[::1]:1/", "http://10.0.0.1/",
        "http://[::ffff:127.0.0.1]:1/", "http://0.0.0.0:1/", "file:///etc/passwd",
        "ftp://127.0.0.1/x", "http://user:pass@127.0.0.1:1/", "\\\\host\\share", "/loop", ""}) {
    EXPECT_EQ(CodeWith(Redirect(location)), StatusCode::FAILED_PRECONDITION) << location;
  }
}

// Row 79.
TEST_F(HostileHub, HeadsThatLackWhatNamesTheContent) {
  for (const char* commit : {"", "main", "../../x"}) {
    EXPECT_EQ(CodeWith({.headers = {{"X-Repo-Commit", commit}}}), StatusCode::FAILED_PRECONDITION)
        << commit;
  }
  for (const char* tag : {"", "\"../../etc/passwd\"", "W/\"x\""}) {
    EXPECT_EQ(CodeWith({.headers = {{"ETag", tag}, {"X-Linked-ETag", tag}}}),
              StatusCode::FAILED_PRECONDITION)
        << tag;
  }
}

// Rows 80 and 82.
TEST_F(HostileHub, BodiesThatAreOthers) {
  EXPECT_EQ(CodeWith({.target_part = "/blobs/", .corrupt_at = 100}), StatusCode::DATA_LOSS);
  EXPECT_EQ(CodeWith({.target_part = "/blobs/", .endless = true}), StatusCode::DATA_LOSS);
  EXPECT_THAT(CodeWith({.target_part = "/blobs/", .surplus = 1000}),
              AnyOf(StatusCode::OK, StatusCode::DATA_LOSS));
}

// Rows 81 and 82: wrong once, and the right bytes in the end.
TEST_F(HostileHub, WhatIsWrongOnceIsFetchedAgain) {
  const std::vector<int32_t> tokens = TokensOf("plain");
  for (const HubFault& fault : {HubFault{.target_part = "/blobs/", .corrupt_at = 100},
                                HubFault{.target_part = "/blobs/", .cut_at = 1000}}) {
    const std::string repo = NewRepo();
    hub_.AddFault(fault);
    EXPECT_EQ(TokensOf(repo), tokens);
  }
}

// Rows 85 and 88: what is here is served, whatever became of the hub's.
TEST_F(HostileHub, WhatIsHereOutlivesItsRepository) {
  const std::string repo = NewRepo();
  const std::vector<int32_t> tokens = TokensOf(repo);
  hub_.Delete(repo);
  EXPECT_EQ(TokensOf(repo), tokens);
  hub_.AddFault({.times = -1, .status = 503});
  EXPECT_EQ(TokensOf(repo), tokens);
}

// Row 90: the first one leaves, all others are served by the one download.
TEST_F(HostileHub, ManyCallsForOneColdAdapterAreOneDownload) {
  const std::string repo = NewRepo();
  std::vector<std::thread> callers;
  callers.emplace_back([&] {
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id(repo);
    Context context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(2));
    v1::GenerateResponse response;
    (void)server().inference().Generate(&context, request, &response);
  });
  for (int i = 0; i < 100; ++i) {
    callers.emplace_back([&] { EXPECT_EQ(CodeOfAdapter(repo), StatusCode::OK); });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(hub_.CountOf("/blobs/", "GET"), 1);
}

}  // namespace
}  // namespace lorica
