#include "adapters/hub/hub_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/hub/retry_delay.h"
#include "tests/fakes/collecting_sink.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/made_certificate.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr absl::Duration kSoon = absl::Seconds(10);
constexpr char kWeights[] = "adapter_model.safetensors";
constexpr char kConfig[] = "adapter_config.json";
constexpr char kToken[] = "hf_secret";

std::string Bytes(size_t size, char seed) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>(seed + i * 7 + i / 256);
  return text;
}

class HubSourceTest : public ::testing::Test {
 protected:
  HubSourceTest() {
    options_.endpoint = hub_.endpoint();
    options_.redirect_hosts = {hub_.cdn_place()};
    options_.http.limits.connect = absl::Seconds(2);
    options_.http.limits.head = absl::Milliseconds(500);
    options_.http.limits.slow_for = absl::Milliseconds(500);
    options_.retry.pause_min = absl::Milliseconds(1);
    options_.retry.pause_max = absl::Milliseconds(4);
    options_.retry.pause_asked_max = absl::Seconds(1);
    commit_ = hub_.Commit("org/name", files_);
  }

  std::unique_ptr<RemoteSession> Begin(const std::string& repo = "org/name",
                                       const std::string& revision = "main",
                                       const std::string& token = "") {
    auto source = MakeHubSource(options_);
    EXPECT_TRUE(source.ok()) << source.status();
    sources_.push_back(*std::move(source));
    auto session = sources_.back()->Begin(repo, revision, token);
    EXPECT_TRUE(session.ok()) << session.status();
    return *std::move(session);
  }
  // Looks and downloads, and holds the content in `got_`.
  absl::Status Fetch(RemoteSession& session, const std::string& file = kWeights) {
    const absl::Time begun = absl::Now();
    auto looked = session.Look(file);
    if (!looked.ok()) return looked.status();
    EXPECT_TRUE(looked->has_value());
    got_ = CollectingSink();
    const absl::Status status = session.Download(**looked, got_);
    EXPECT_LT(absl::Now() - begun, kSoon);
    return status;
  }
  absl::Status Fetch(const std::string& file = kWeights) { return Fetch(*Begin(), file); }
  absl::Status LookAt(const std::string& repo, const std::string& revision = "main",
                      const std::string& token = "") {
    return Begin(repo, revision, token)->Look(kWeights).status();
  }
  void Fault(HubFault fault) {
    hub_.ClearFaults();
    hub_.AddFault(std::move(fault));
  }
  // No request to the CDN carries the token, and none to elsewhere but the hub.
  void ExpectTokenAtTheHubAlone() {
    int with_token = 0;
    for (const HubRequest& request : hub_.requests()) {
      for (const auto& [name, value] : request.headers) {
        if (!absl::StrContains(value, kToken)) continue;
        ++with_token;
        EXPECT_EQ(request.place, "hub") << request.target;
        EXPECT_EQ(name, "authorization");
      }
    }
    EXPECT_GT(with_token, 0);
  }

  FakeHub hub_;
  FakeHub::Files files_ = {{kConfig, "{\"r\": 8}"}, {kWeights, Bytes(3 << 20, 'w')}};
  HubOptions options_;
  std::string commit_;
  std::vector<std::unique_ptr<RemoteSource>> sources_;
  CollectingSink got_;
};

TEST_F(HubSourceTest, DownloadsWhatTheHubHas) {
  const auto session = Begin();
  const auto config = session->Look(kConfig);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ((*config)->size_bytes, 8);
  EXPECT_EQ((*config)->hash.algorithm, HashAlgorithm::kSha1);
  EXPECT_EQ(session->commit(), commit_);
  const auto weights = session->Look(kWeights);
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ((*weights)->size_bytes, 3 << 20);
  EXPECT_EQ((*weights)->hash.algorithm, HashAlgorithm::kSha256);
  for (const auto& file : {*config, *weights}) {
    CollectingSink got;
    ASSERT_TRUE(session->Download(*file, got).ok());
    EXPECT_EQ(got.text, files_[file->name]);
    EXPECT_EQ(got.restarts, 0);
  }
  const auto missing = session->Look("adapter_model.bin");
  ASSERT_TRUE(missing.ok()) << missing.status();
  EXPECT_FALSE(missing->has_value());
}

TEST_F(HubSourceTest, PinsTheCommitOfItsFirstLook) {
  const auto session = Begin();
  ASSERT_TRUE(session->Look(kConfig).ok());
  const FakeHub::Files newer = {{kConfig, "{\"r\": 9}"}, {kWeights, Bytes(1000, 'n')}};
  const std::string newer_commit = hub_.Commit("org/name", newer);
  ASSERT_TRUE(Fetch(*session).ok());
  EXPECT_EQ(got_.text, files_[kWeights]);
  EXPECT_EQ(session->commit(), commit_);
  const auto later = Begin();
  ASSERT_TRUE(Fetch(*later).ok());
  EXPECT_EQ(got_.text, newer.at(kWeights));
  EXPECT_EQ(later->commit(), newer_commit);
  const auto old = Begin("org/name", commit_);
  ASSERT_TRUE(Fetch(*old).ok());
  EXPECT_EQ(got_.text, files_[kWeights]);
  hub_.Commit("org/name", newer, "refs/pr/1");
  EXPECT_TRUE(Fetch(*Begin("org/name", "refs/pr/1")).ok());
  EXPECT_EQ(got_.text, newer.at(kWeights));
}

TEST_F(HubSourceTest, RefusesAHubThatSwitchesCommits) {
  const auto session = Begin();
  ASSERT_TRUE(session->Look(kConfig).ok());
  Fault({.target_part = kWeights, .headers = {{"X-Repo-Commit", std::string(40, 'c')}}});
  EXPECT_TRUE(absl::IsFailedPrecondition(session->Look(kWeights).status()));
  Fault({.headers = {{"X-Repo-Commit", std::string(40, 'c')}}});
  EXPECT_TRUE(absl::IsFailedPrecondition(LookAt("org/name", commit_)));
}

TEST_F(HubSourceTest, RefusesHeadersThatAreNotAHubs) {
  const std::vector<std::map<std::string, std::string>> wrong = {
      {{"X-Repo-Commit", ""}},
      {{"X-Repo-Commit", "main"}},
      {{"X-Linked-Etag", "\"../../x\""}},
      {{"X-Linked-Etag", std::string(8000, 'a')}},
      {{"X-Linked-Etag", ""}},
      {{"X-Linked-Size", ""}},
      {{"X-Linked-Size", "-5"}},
      {{"X-Linked-Size", "1e9"}},
      {{"X-Filler", std::string(9000, 'a')}},
  };
  for (const auto& headers : wrong) {
    Fault({.headers = headers});
    const absl::Status status = LookAt("org/name");
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << headers.begin()->first << status;
  }
  hub_.ClearFaults();
  EXPECT_TRUE(LookAt("org/name").ok());
}

TEST_F(HubSourceTest, AccessDecidesWhatIsSaid) {
  hub_.Commit("org/private", files_);
  hub_.SetAccess("org/private", HubAccess::kPrivate, kToken);
  hub_.Commit("org/gated", files_);
  hub_.SetAccess("org/gated", HubAccess::kGated, "hf_other");
  hub_.Commit("org/disabled", files_);
  hub_.SetAccess("org/disabled", HubAccess::kDisabled);
  EXPECT_TRUE(absl::IsNotFound(LookAt("org/missing")));
  EXPECT_TRUE(absl::IsNotFound(LookAt("org/missing", "main", kToken)));
  EXPECT_TRUE(absl::IsNotFound(LookAt("org/private")));
  EXPECT_TRUE(absl::IsNotFound(LookAt("org/private", "main", "hf_other")));
  EXPECT_TRUE(LookAt("org/private", "main", kToken).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(LookAt("org/gated")));
  EXPECT_TRUE(absl::IsPermissionDenied(LookAt("org/gated", "main", kToken)));
  EXPECT_TRUE(LookAt("org/gated", "main", "hf_other").ok());
  EXPECT_TRUE(absl::IsPermissionDenied(LookAt("org/disabled")));
  EXPECT_TRUE(absl::IsNotFound(LookAt("org/name", "no-such-revision")));
  const absl::Status revoked = LookAt("org/name", "main", "hf_revoked");
  EXPECT_TRUE(absl::IsFailedPrecondition(revoked));
  EXPECT_THAT(std::string(revoked.message()), HasSubstr("token"));
  EXPECT_FALSE(absl::StrContains(revoked.message(), "hf_revoked"));
}

TEST_F(HubSourceTest, ErrorsNameTheHubsRequest) {
  const auto text = [this](const std::string& id) {
    hub_.AddFault({.status = 403, .headers = {{"X-Request-Id", id}}});
    return std::string(LookAt("org/name", "main", kToken).message());
  };
  EXPECT_THAT(text("Root=1;4b1d"), HasSubstr("[the hub's request Root=1;4b1d]"));
  EXPECT_THAT(text(kToken), HasSubstr("request (the token)]"));
}

TEST_F(HubSourceTest, ARevokedTokenIsNoticedInTheMiddle) {
  hub_.Commit("org/private", files_);
  hub_.SetAccess("org/private", HubAccess::kPrivate, kToken);
  const auto session = Begin("org/private", "main", kToken);
  ASSERT_TRUE(session->Look(kConfig).ok());
  hub_.SetAccess("org/private", HubAccess::kPrivate, "hf_newer");
  EXPECT_TRUE(absl::IsFailedPrecondition(Fetch(*session)));
}

TEST_F(HubSourceTest, ReadsItsTokenFromAFile) {
  TemporaryFolder folder;
  options_.token_file = folder.path() + "/token";
  hub_.Commit("org/private", files_);
  hub_.SetAccess("org/private", HubAccess::kPrivate, kToken);
  EXPECT_TRUE(absl::IsFailedPrecondition(MakeHubSource(options_).status()));
  for (const std::string& text :
       {std::string(), std::string(" \n"), std::string("a b"), std::string("a\nb"),
        std::string("a\x01"), std::string(kTokenBytesMax + 1, 'a')}) {
    folder.Write("token", text);
    EXPECT_TRUE(absl::IsFailedPrecondition(MakeHubSource(options_).status())) << text;
  }
  folder.Write("token", std::string(kTokenBytesMax, 'a'));
  EXPECT_TRUE(MakeHubSource(options_).ok());
  folder.Write("token", absl::StrCat(" ", kToken, "\r\n"));
  EXPECT_TRUE(Fetch(*Begin("org/private")).ok());
  ExpectTokenAtTheHubAlone();
  options_.endpoint = "http://hub.example";
  EXPECT_TRUE(absl::IsInvalidArgument(MakeHubSource(options_).status()));
  options_.endpoint = "http://127.evil.example";
  EXPECT_TRUE(absl::IsInvalidArgument(MakeHubSource(options_).status()));
}

TEST_F(HubSourceTest, TriesAgainWhenTheHubIsBusy) {
  for (const int status : {408, 429, 500, 502, 503, 504}) {
    Fault({.method = "HEAD", .times = 3, .status = status});
    EXPECT_TRUE(Fetch().ok()) << status;
    Fault({.target_part = "/blobs/", .times = 4, .status = status});
    EXPECT_TRUE(Fetch().ok()) << status;
    EXPECT_EQ(got_.text, files_[kWeights]);
  }
  Fault({.times = -1, .status = 503});
  const int before = hub_.CountOf("");
  EXPECT_TRUE(absl::IsUnavailable(LookAt("org/name")));
  EXPECT_EQ(hub_.CountOf("") - before, 5);
}

TEST_F(HubSourceTest, WaitsAsLongAsItIsAskedToOrGivesUp) {
  const auto look_after = [&](const std::string& header, const std::string& value) {
    Fault({.status = 429, .headers = {{header, value}}});
    const absl::Time begun = absl::Now();
    const absl::Status status = LookAt("org/name");
    return std::pair(status, absl::Now() - begun);
  };
  const auto [at_once, no_time] = look_after("Retry-After", "0");
  EXPECT_TRUE(at_once.ok());
  EXPECT_LT(no_time, absl::Milliseconds(500));
  const auto [waited, a_second] = look_after("Retry-After", "1");
  EXPECT_TRUE(waited.ok());
  EXPECT_GE(a_second, absl::Seconds(1));
  const auto [too_long, little] = look_after("Retry-After", "1000000000");
  EXPECT_TRUE(absl::IsUnavailable(too_long));
  EXPECT_EQ(RetryDelayIn(too_long), absl::Hours(1));
  EXPECT_LT(little, absl::Milliseconds(500));
  const auto [limited, also_little] = look_after("RateLimit", "\"api\";r=0;t=57");
  EXPECT_EQ(RetryDelayIn(limited), absl::Seconds(58));
  EXPECT_TRUE(look_after("Retry-After", "garbage").first.ok());
}

TEST_F(HubSourceTest, DoesNotRepeatWhatWillNotHelp) {
  for (const int status : {400, 401, 403, 404, 410}) {
    Fault({.times = -1, .status = status});
    const int before = hub_.CountOf("");
    EXPECT_FALSE(LookAt("org/name").ok());
    EXPECT_EQ(hub_.CountOf("") - before, 1) << status;
  }
}

TEST_F(HubSourceTest, GoesOnWhereItStopped) {
  Fault({.target_part = "/blobs/", .times = 2, .cut_at = 1 << 20});
  EXPECT_TRUE(Fetch().ok());
  EXPECT_EQ(got_.text, files_[kWeights]);
  EXPECT_EQ(got_.restarts, 0);
  std::vector<std::string> ranges;
  for (const HubRequest& request : hub_.requests()) {
    if (request.place != "cdn") continue;
    const auto range = request.headers.find("range");
    ranges.push_back(range == request.headers.end() ? "" : range->second);
  }
  EXPECT_THAT(ranges, testing::ElementsAre("", "bytes=1048576-", "bytes=2097152-"));
}

TEST_F(HubSourceTest, StartsOverWhenItCannotGoOn) {
  const auto cut_then = [&](HubFault then) {
    hub_.ClearFaults();
    hub_.AddFault({.target_part = "/blobs/", .cut_at = 1000});
    then.target_part = "/blobs/";
    hub_.AddFault(std::move(then));
    const absl::Status status = Fetch();
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(got_.text, files_[kWeights]);
    EXPECT_GE(got_.restarts, 1);
  };
  cut_then({.ignores_range = true});
  cut_then({.status = 416});
  cut_then({.status = 412});
  cut_then({.headers = {{"Content-Range", "bytes 0-9/3145728"}}});
  cut_then({.headers = {{"Content-Range", "bytes 1000-3145727/99"}}});
  cut_then({.headers = {{"Content-Range", ""}}});
  cut_then({.headers = {{"ETag", "\"another\""}}});
}

TEST_F(HubSourceTest, AHubThatCutsEveryPieceIsGivenUp) {
  Fault({.target_part = "/blobs/", .times = -1, .cut_at = 100});
  const int before = hub_.CountOf("/blobs/");
  EXPECT_TRUE(absl::IsUnavailable(Fetch()));
  EXPECT_EQ(hub_.CountOf("/blobs/") - before, 5);
}

TEST_F(HubSourceTest, WrongContentIsFetchedOnceMoreAndThenLost) {
  const std::vector<HubFault> wrong = {
      {.corrupt_at = 5},
      {.headers = {{"Content-Length", "5"}}},
      {.headers = {{"Content-Length", "99999999"}}},
      {.headers = {{"Content-Length", ""}}, .surplus = 1},
      {.endless = true},
  };
  for (size_t i = 0; i < wrong.size(); ++i) {
    for (const int times : {1, -1}) {
      HubFault fault = wrong[i];
      fault.target_part = "/blobs/";
      fault.times = times;
      Fault(fault);
      const int before = hub_.CountOf("/blobs/");
      const absl::Status status = Fetch();
      if (times == 1) {
        EXPECT_TRUE(status.ok()) << i << status;
        EXPECT_EQ(got_.text, files_[kWeights]);
      } else {
        EXPECT_TRUE(absl::IsDataLoss(status)) << i << status;
      }
      EXPECT_EQ(hub_.CountOf("/blobs/") - before, 2) << i;
      EXPECT_LE(got_.text.size(), files_[kWeights].size());
    }
  }
  // A small file is known by git's hash.
  Fault({.target_part = kConfig, .method = "GET", .times = -1, .corrupt_at = 2});
  EXPECT_TRUE(absl::IsDataLoss(Fetch(kConfig)));
}

TEST_F(HubSourceTest, ABodyWithoutLengthIsCountedAndHashed) {
  Fault({.target_part = "/blobs/", .headers = {{"Content-Length", ""}}});
  EXPECT_TRUE(Fetch().ok());
  EXPECT_EQ(got_.text, files_[kWeights]);
}

TEST_F(HubSourceTest, CompressedBodiesAreRefused) {
  Fault({.target_part = "/blobs/", .headers = {{"Content-Encoding", "gzip"}}});
  EXPECT_TRUE(absl::IsFailedPrecondition(Fetch()));
  EXPECT_EQ(got_.text, "");
}

TEST_F(HubSourceTest, StallsEndAndAreTriedAgain) {
  Fault({.method = "HEAD", .stall_head = true});
  EXPECT_TRUE(Fetch().ok());
  Fault({.target_part = "/blobs/", .stall_at = (3 << 20) - 100});
  EXPECT_TRUE(Fetch().ok());
  EXPECT_EQ(got_.text, files_[kWeights]);
  Fault({.target_part = "/blobs/", .byte_delay = absl::Milliseconds(20)});
  EXPECT_TRUE(Fetch().ok());
  options_.retry.attempts_max = 2;
  Fault({.times = -1, .byte_delay = absl::Milliseconds(50), .head_drip = true});
  EXPECT_TRUE(absl::IsUnavailable(Fetch()));
}

TEST_F(HubSourceTest, AHubThatIsNotThereIsUnavailable) {
  options_.endpoint = "http://127.0.0.1:1";
  EXPECT_TRUE(absl::IsUnavailable(LookAt("org/name")));
  options_.endpoint = "http://no-such-host.invalid";
  EXPECT_TRUE(absl::IsUnavailable(LookAt("org/name")));
}

TEST_F(HubSourceTest, StopsAtOnceWhenTheServerStops) {
  std::atomic<bool> stopped = false;
  options_.http.stopped = &stopped;
  options_.retry.pause_min = options_.retry.pause_max = absl::Hours(1);
  options_.retry.total_max = absl::Hours(2);
  Fault({.times = -1, .status = 503});
  std::thread stopper([&stopped] {
    absl::SleepFor(absl::Milliseconds(100));
    stopped = true;
  });
  const absl::Time begun = absl::Now();
  EXPECT_TRUE(absl::IsCancelled(LookAt("org/name")));
  EXPECT_LT(absl::Now() - begun, absl::Seconds(2));
  stopper.join();
}

TEST_F(HubSourceTest, FollowsRenamedRepositories) {
  hub_.Commit("org/old", files_);
  hub_.SetAccess("org/old", HubAccess::kPrivate, kToken);
  hub_.Rename("org/old", "org/new");
  EXPECT_TRUE(Fetch(*Begin("org/old", "main", kToken)).ok());
  ExpectTokenAtTheHubAlone();
}

TEST_F(HubSourceTest, FollowsOnlyWhereItMay) {
  hub_.SetAccess("org/name", HubAccess::kPrivate, kToken);
  const std::string secret = absl::StrCat(hub_.endpoint(), "/secret");
  const auto redirect = [&](const std::string& location, const std::string& method) {
    Fault({.method = method, .times = -1, .status = 302, .headers = {{"Location", location}}});
    return Fetch(*Begin("org/name", "main", kToken));
  };
  for (const std::string location :
       {"file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "//user:pass@127.0.0.1/x",
        "http://user:pass@127.0.0.1/x", "http:\\\\127.0.0.1\\x", "http://[fe80::1%25lo]/x", "",
        "http://127.0.0.1:1/x", "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/",
        "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/", "http://localhost:1/",
        "http://2130706433:1/"}) {
    const absl::Status status = redirect(location, "GET");
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << location << status;
  }
  // On a look nothing foreign is asked at all, and what is said there does not count.
  EXPECT_FALSE(redirect("http://127.0.0.1:1/x", "HEAD").ok());
  ExpectTokenAtTheHubAlone();
}

TEST_F(HubSourceTest, RedirectsEnd) {
  Fault({.times = -1, .status = 307, .headers = {{"Location", "/org/name/resolve/main/x"}}});
  const int before = hub_.CountOf("");
  EXPECT_TRUE(absl::IsFailedPrecondition(LookAt("org/name")));
  EXPECT_EQ(hub_.CountOf("") - before, kRedirectsMax + 1);
  // As many as are allowed, and one more.
  const std::string real = absl::StrCat("/org/name/resolve/main/", kWeights);
  for (const int hops : {kRedirectsMax, kRedirectsMax + 1}) {
    Fault({.method = "HEAD", .times = hops, .status = 307, .headers = {{"Location", real}}});
    EXPECT_EQ(LookAt("org/name").ok(), hops == kRedirectsMax) << hops;
  }
}

TEST_F(HubSourceTest, TheTokenDoesNotComeBackFromElsewhere) {
  hub_.SetAccess("org/name", HubAccess::kPublic, kToken);
  const auto session = Begin("org/name", "main", kToken);
  const auto file = session->Look(kWeights);
  ASSERT_TRUE(file.ok()) << file.status();
  hub_.AddFault({.target_part = "/blobs/",
                 .status = 302,
                 .headers = {{"Location", hub_.endpoint() + "/back-at-the-hub"}}});
  CollectingSink got;
  EXPECT_FALSE(session->Download(**file, got).ok());
  ASSERT_EQ(hub_.CountOf("/back-at-the-hub"), 1);
  EXPECT_EQ(hub_.requests().back().authorization, "");
  ExpectTokenAtTheHubAlone();
}

TEST_F(HubSourceTest, ExpiredSignaturesGetANewAddress) {
  Fault({.target_part = "/blobs/", .status = 403});
  EXPECT_TRUE(Fetch().ok());
  EXPECT_EQ(hub_.CountOf("/resolve/", "GET"), 2);
}

// Whatever a hub says: the announced content or an error, within bounds, and the token stays.
TEST_F(HubSourceTest, AnythingAHubSaysEndsInContentOrAnError) {
  hub_.SetAccess("org/name", HubAccess::kPublic, kToken);
  options_.http.limits.head = options_.http.limits.slow_for = absl::Milliseconds(100);
  options_.retry.attempts_max = 3;
  const std::vector<std::string> names = {
      "X-Repo-Commit", "ETag",        "X-Linked-Etag",    "X-Linked-Size", "Location",
      "Content-Range", "Retry-After", "Content-Encoding", "RateLimit",     "Content-Length"};
  const std::vector<std::string> values = {"",
                                           "0",
                                           "-1",
                                           "9223372036854775808",
                                           std::string(64, 'a'),
                                           std::string(40, 'b'),
                                           "\"\"",
                                           "W/",
                                           "../../x",
                                           "bytes 0-1/2",
                                           "bytes 5-",
                                           "gzip",
                                           "http://127.0.0.1:1/",
                                           "//[::1]/",
                                           "/",
                                           "%00",
                                           "\"api\";r=0;t=1",
                                           std::string(5000, 'z'),
                                           "http://169.254.169.254/",
                                           hub_.endpoint() + "/x"};
  const std::vector<int> statuses = {0,   0,   0,   200, 201, 206, 301, 302, 304, 307,
                                     308, 401, 403, 404, 412, 416, 429, 500, 503, 999};
  for (uint32_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto pick = [&random](const auto& list) { return list[random() % list.size()]; };
    hub_.ClearFaults();
    for (int faults = 1 + random() % 3; faults > 0; --faults) {
      HubFault fault{.times = 1 + static_cast<int>(random() % 4)};
      if (random() % 2 == 0) fault.target_part = "/blobs/";
      fault.status = pick(statuses);
      for (int headers = random() % 3; headers > 0; --headers)
        fault.headers[pick(names)] = pick(values);
      if (random() % 4 == 0) fault.cut_at = random() % (4 << 20);
      if (random() % 6 == 0) fault.corrupt_at = random() % (3 << 20);
      fault.surplus = random() % 5 == 0 ? 7 : 0;
      fault.endless = random() % 9 == 0;
      fault.ignores_range = random() % 3 == 0;
      hub_.AddFault(std::move(fault));
    }
    const auto session = Begin("org/name", "main", kToken);
    auto looked = session->Look(kWeights);
    if (!looked.ok() || !looked->has_value()) continue;
    CollectingSink got;
    const absl::Status status = session->Download(**looked, got);
    EXPECT_TRUE(!status.ok() || got.text == files_[kWeights]);
    EXPECT_LE(std::ssize(got.text), (*looked)->size_bytes);
  }
  ExpectTokenAtTheHubAlone();
}

TEST_F(HubSourceTest, NeverLeavesTls) {
  TemporaryFolder folder;
  const TlsFiles tls = MakeCertificate(folder, "good", "127.0.0.1", absl::Now() + absl::Hours(24));
  FakeHub secure(tls);
  secure.Commit("org/name", files_);
  options_.endpoint = secure.endpoint();
  options_.redirect_hosts = {secure.cdn_place(), hub_.cdn_place(), "127.0.0.1"};
  options_.http.ca_file = tls.certificate;
  options_.http.limits.head = kSoon;
  EXPECT_TRUE(Fetch().ok());
  secure.AddFault({.method = "GET",
                   .status = 302,
                   .headers = {{"Location", hub_.endpoint() + "/org/name/resolve/main/x"}}});
  const int before = hub_.CountOf("");
  EXPECT_TRUE(absl::IsFailedPrecondition(Fetch()));
  EXPECT_EQ(hub_.CountOf(""), before);
  options_.http.ca_file = "";
  EXPECT_TRUE(absl::IsFailedPrecondition(Fetch()));
}

TEST_F(HubSourceTest, KnowsWhatARepositoryIsCalled) {
  for (const std::string& name :
       {std::string("a"), std::string("org/name"), std::string("o_1/n.a-m"),
        std::string(96, 'a') + "/" + std::string(96, 'b'), std::string("_a/b_")}) {
    EXPECT_TRUE(IsRepoName(name)) << name;
  }
  for (const std::string& name :
       {std::string(), std::string("a/b/c"), std::string("/a"), std::string("a/"),
        std::string("a--b"), std::string("a..b"), std::string("a.git"), std::string("-a/b"),
        std::string("a/b-"), std::string("a b"), std::string("a@b"), std::string("a\\b"),
        std::string("a%2fb"), std::string(97, 'a')}) {
    EXPECT_FALSE(IsRepoName(name)) << name;
  }
  EXPECT_TRUE(absl::IsNotFound((*MakeHubSource(options_))->Begin("a--b", "main", "").status()));
  EXPECT_THAT(hub_.requests(), SizeIs(0));
}

TEST_F(HubSourceTest, AnAdapterMayLieInAFolderOfItsRepository) {
  std::string deepest = "org/name";
  for (int i = 0; i < kRepoFolderPartsMax; ++i) deepest += "/a";
  for (const char* place : {"org/name/other", "o_1/n.a-m/a/b_c/d.e"}) {
    EXPECT_TRUE(IsRepoFolder(place)) << place;
  }
  for (const std::string& place :
       {std::string("name"), std::string("org/name"), std::string("org/name/"),
        std::string("org/name//a"), std::string("org/name/.."), std::string("org/name/.git"),
        std::string("org/name/a/../b"), std::string("a--b/c/d"), std::string("org/name/a b"),
        std::string("org/name/a%2fb"), std::string("org/name/a@b"), std::string("org/name/a\\b"),
        "org/name/" + std::string(97, 'a'), absl::StrCat(deepest, "/a")}) {
    EXPECT_FALSE(IsRepoFolder(place)) << place;
  }
  EXPECT_TRUE(IsRepoFolder(deepest));
  EXPECT_EQ(SplitRepoPlace("org/name/a/b").repo, "org/name");
  EXPECT_EQ(SplitRepoPlace("org/name/a/b").folder, "a/b");
  EXPECT_EQ(SplitRepoPlace("org/name").folder, "");

  hub_.Commit("org/many", {{"a.txt", "top"}, {"in/it/a.txt", "deep"}});
  const auto source = *MakeHubSource(options_);
  const auto session = *source->Begin("org/many/in/it", "main", "");
  const auto found = session->Look("a.txt");
  ASSERT_TRUE(found.ok() && found->has_value()) << found.status();
  EXPECT_EQ((*found)->size_bytes, 4);
  CollectingSink sink;
  EXPECT_TRUE(session->Download(**found, sink).ok());
  EXPECT_EQ(sink.text, "deep");
}

TEST_F(HubSourceTest, EndpointsAreAddresses) {
  for (const char* endpoint : {"", "hub", "ftp://hub", "https://user@hub", "https://hub/?a=b"}) {
    options_.endpoint = endpoint;
    EXPECT_TRUE(absl::IsInvalidArgument(MakeHubSource(options_).status())) << endpoint;
  }
  options_.endpoint = "https://hub/mirror/";
  EXPECT_EQ((*MakeHubSource(options_))->name(), "https://hub/mirror");
}

}  // namespace
}  // namespace lorica
