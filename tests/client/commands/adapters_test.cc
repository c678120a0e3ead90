#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

RunResult Adapters(const FakeServer& server, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {LORICA_BINARY, "--server", server.address(), "adapters"});
  return RunToEnd(arguments);
}

TEST(Adapters, ListShowsEveryPageAsAnAlignedTable) {
  FakeServer server;
  for (const char* id : {"a", "bbbbbb", "c"}) server.AddAdapter(id);
  const RunResult run = Adapters(server, {"list"});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_THAT(run.output, HasSubstr("adapter  generation"));
  EXPECT_THAT(run.output, HasSubstr("a        01234567"));
  EXPECT_THAT(run.output, HasSubstr("bbbbbb   01234567"));
  EXPECT_THAT(run.output, HasSubstr("c        01234567"));
}

TEST(Adapters, JsonHasNumbersAndLowerCaseNames) {
  FakeServer server;
  server.AddAdapter("a");
  const Json json = Json::parse(Adapters(server, {"list", "--json"}).output);
  const Json adapter = json["adapters"][0];
  EXPECT_EQ(adapter["device_bytes"], int64_t{3} << 32);
  EXPECT_EQ(adapter["tier"], "source");
  EXPECT_EQ(adapter["state"], "available");
  EXPECT_TRUE(adapter["pinned"].is_null());
}

TEST(Adapters, HowMuchItIsUsedIsShownWhereTheServerTells) {
  FakeServer server;
  server.AddAdapter("a");
  const RunResult others = Adapters(server, {"list"});
  EXPECT_THAT(others.output, ContainsRegex("a .* - +- +- +-\n"));
  EXPECT_THAT(others.output, Not(HasSubstr("never")));
  EXPECT_THAT(Adapters(server, {"get", "a"}).output,
              AllOf(ContainsRegex("streams +-\n"), ContainsRegex("hits +-\n"),
                    ContainsRegex("loads +-\n"), ContainsRegex("last used +-\n")));
  const Json untold = Json::parse(Adapters(server, {"get", "a", "--json"}).output);
  server.TellUse();
  const RunResult operators = Adapters(server, {"list"});
  EXPECT_THAT(operators.output, ContainsRegex("a .* 0 +0 +0 +never\n"));
  const Json told = Json::parse(Adapters(server, {"get", "a", "--json"}).output);
  EXPECT_EQ(told["last_used_seconds_ago"], -1);
  for (const char* field :
       {"lease_count", "hit_count", "load_count", "last_used_seconds_ago", "last_load_ms"}) {
    EXPECT_TRUE(told.contains(field)) << field;
    EXPECT_FALSE(untold.contains(field)) << field;
  }
}

TEST(Adapters, MovesAndPins) {
  FakeServer server;
  server.AddAdapter("a");
  server.AddAdapter("b");
  EXPECT_THAT(Adapters(server, {"load", "a", "b"}).output, HasSubstr("loaded b@01234567 device"));
  EXPECT_THAT(Adapters(server, {"pin", "a", "--tier", "host"}).output, HasSubstr("pinned on host"));
  EXPECT_THAT(Adapters(server, {"unpin", "a"}).output, Not(HasSubstr("pinned on")));
  EXPECT_THAT(Adapters(server, {"evict", "a", "--down-to", "host"}).output,
              HasSubstr("a@01234567 host"));
  EXPECT_EQ(Json::parse(Adapters(server, {"get", "b", "--json"}).output)["tier"], "device");
  EXPECT_EQ(Adapters(server, {"load", "a", "--tier", "moon"}).code, 2);
}

TEST(Adapters, TheHubsTokenIsPassedOn) {
  FakeServer server;
  server.AddAdapter("a");
  TemporaryFolder folder;
  folder.Write("token", "hf_mine\n");
  const std::string path = folder.path() + "/token";
  const Json pinned =
      Json::parse(Adapters(server, {"pin", "a", "--hub-token-file", path, "--json"}).output);
  EXPECT_EQ(pinned["adapters"][0]["source"], "by hf_mine");
  const Json alias = Json::parse(Adapters(server, {"alias", "live", "a", "--hub-token-file", path,
                                                   "--expected-generation", "0123abcd", "--json"})
                                     .output);
  EXPECT_EQ(alias["adapter"]["source"], "hf_mine 0123abcd");
  EXPECT_EQ(Adapters(server, {"unpin", "a", "--hub-token-file", path + "-not"}).code, 2);
}

TEST(Adapters, OneFailureOfManyIsToldAndTheOthersAreDone) {
  FakeServer server;
  server.AddAdapter("a");
  const RunResult run = Adapters(server, {"load", "x", "a", "--json"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.error, HasSubstr("NOT_FOUND: no adapter x"));
  const Json json = Json::parse(run.output);
  EXPECT_EQ(json["adapters"][0]["error"]["code"], "NOT_FOUND");
  EXPECT_EQ(json["adapters"][1]["tier"], "device");
}

TEST(Adapters, RegistersAndDeletes) {
  FakeServer server;
  EXPECT_THAT(Adapters(server, {"register", "new", "--source", "folder"}).output,
              HasSubstr("registered new@01234567"));
  const RunResult again = Adapters(server, {"register", "new"});
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.error, HasSubstr("ALREADY_EXISTS"));
  EXPECT_THAT(Adapters(server, {"register", "new", "--replace"}).output,
              HasSubstr("replaced 77777777 by new@01234567"));
  EXPECT_THAT(Adapters(server, {"register", "new", "--replace", "--source", "same"}).output,
              HasSubstr("unchanged: new@01234567"));
  EXPECT_EQ(Adapters(server, {"delete", "new"}).code, 0);
  EXPECT_EQ(Adapters(server, {"get", "new"}).code, 1);
}

TEST(Adapters, AnEmptyListSaysWhatIsTrue) {
  FakeServer server;
  EXPECT_EQ(Adapters(server, {"list"}).error,
            "no adapters: put PEFT folders under the server's --adapters-dir, or register one\n");
  TemporaryFolder folder;
  folder.Write("key", "lk_mine\n");
  const std::string key = folder.path() + "/key";
  const auto said = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"list", "--api-key-file", key});
    const RunResult run = Adapters(server, arguments);
    EXPECT_EQ(run.code, 0);
    return run.error;
  };
  EXPECT_THAT(said({}), HasSubstr("no adapter that this key may use\n"));
  EXPECT_THAT(said({"--prefix", "z"}),
              HasSubstr("no adapter that this key may use begins with 'z'\n"));
  server.AddAdapter("a");
  EXPECT_EQ(Adapters(server, {"list", "--prefix", "zzz"}).error, "no adapter begins with 'zzz'\n");
}

TEST(Adapters, AMergeWhosePartsAreWrongIsNotSent) {
  FakeServer server;
  for (const char* part : {"a=x", "a=", "=1", "a=1,,b=1"}) {
    const RunResult run = Adapters(server, {"merge", "both", part, "b=1"});
    EXPECT_EQ(run.code, 2) << part;
    EXPECT_THAT(run.error, HasSubstr("expected NAME=WEIGHT such as a=0.7 b=0.3, got \""));
    EXPECT_THAT(run.error, Not(HasSubstr("--mix")));
  }
  EXPECT_THAT(Adapters(server, {"list"}).error, HasSubstr("no adapters"));
}

TEST(Adapters, MergesSeveralIntoOne) {
  FakeServer server;
  const RunResult run =
      Adapters(server, {"merge", "both", "a=0.7", "b=-0.5", "--method", "dare_ties", "--density",
                        "0.25", "--majority-sign", "frequency", "--seed", "9", "--json"});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(Json::parse(run.output)["adapter"]["source"],
            "MERGE_METHOD_DARE_TIES 0.25 MAJORITY_SIGN_FREQUENCY 9 a=0.7 b=-0.5");
  EXPECT_THAT(Adapters(server, {"merge", "both", "a=1", "b=1"}).output,
              HasSubstr("merged both@01234567"));
  const TemporaryFolder folder;
  folder.Write("token", "hf_mine\n");
  const RunResult own = Adapters(server, {"merge", "both", "a=1", "b=1", "--hub-token-file",
                                          folder.path() + "/token", "--json"});
  EXPECT_EQ(Json::parse(own.output)["adapter"]["commit"], "hf_mine");
  EXPECT_EQ(Adapters(server, {"merge", "both", "a=1", "--method", "svd"}).code, 2);
  EXPECT_EQ(Adapters(server, {"merge", "both"}).code, 2);
  for (const char* method : {"linear", "cat"}) {
    const RunResult ignored =
        Adapters(server, {"merge", "both", "a=1", "b=1", "--method", method, "--density", "0.5"});
    EXPECT_EQ(ignored.code, 2);
    EXPECT_THAT(ignored.error, HasSubstr("--density means nothing to --method"));
  }
}

TEST(Adapters, RollsBackAliasesAndShowsTheHistory) {
  FakeServer server;
  server.AddAdapter("a");
  EXPECT_THAT(Adapters(server, {"rollback", "a", "--to", "fedcba98"}).output,
              HasSubstr("rolled back a@fedcba98"));
  EXPECT_EQ(Adapters(server, {"rollback", "x"}).code, 1);
  EXPECT_THAT(Adapters(server, {"alias", "live", "a"}).output,
              HasSubstr("live is live@01234567 = a"));
  EXPECT_THAT(Adapters(server, {"list"}).output, HasSubstr("live = a  01234567"));
  EXPECT_EQ(Adapters(server, {"alias", "live"}).code, 2);
  EXPECT_THAT(Adapters(server, {"get", "a"}).output, HasSubstr("3  01234567    folder"));
  EXPECT_EQ(Json::parse(Adapters(server, {"get", "a", "--json"}).output)["history"][0]["number"],
            3);
}

TEST(Adapters, ImportsTheFoldersOfAGroup) {
  FakeServer server;
  for (const char* id : {"acme/x", "acme/y", "other"}) server.AddAdapter(id);
  const RunResult all = Adapters(server, {"import", "acme", "--strip-group"});
  EXPECT_EQ(all.code, 0) << all.error;
  EXPECT_THAT(all.output, HasSubstr("registered x@01234567"));
  EXPECT_THAT(all.output, HasSubstr("registered y@01234567"));
  EXPECT_THAT(all.output, Not(HasSubstr("other")));
  const RunResult again = Adapters(server, {"import", "acme", "--strip-group"});
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.error, HasSubstr("ALREADY_EXISTS"));
  const RunResult none = Adapters(server, {"import", "nobody"});
  EXPECT_EQ(none.code, 1);
  EXPECT_THAT(none.error, HasSubstr("no adapter's folder lies beneath nobody/"));
}

TEST(Adapters, ImportsAllFoldersOfTheRootHoweverItIsNamed) {
  for (const std::vector<std::string>& group :
       std::vector<std::vector<std::string>>{{}, {""}, {"."}, {"./"}}) {
    FakeServer server;
    for (const char* id : {"acme/x", "other"}) server.AddAdapter(id);
    std::vector<std::string> words = {"import", "--strip-group"};
    words.insert(words.end(), group.begin(), group.end());
    const RunResult all = Adapters(server, words);
    EXPECT_EQ(all.code, 0) << all.error;
    EXPECT_THAT(all.output, HasSubstr("registered acme/x@01234567"));
    EXPECT_THAT(all.output, HasSubstr("registered other@01234567")) << "nothing to strip";
  }
}

TEST(Adapters, ImportTakesAGroupAsAShellCompletesIt) {
  FakeServer server;
  for (const char* id : {"acme/x", "other"}) server.AddAdapter(id);
  const RunResult all = Adapters(server, {"import", "acme/", "--strip-group"});
  EXPECT_EQ(all.code, 0) << all.error;
  EXPECT_THAT(all.output, HasSubstr("registered x@01234567"));
  EXPECT_THAT(all.output, Not(HasSubstr("other")));
}

TEST(Adapters, ImportLeavesWhatIsNoFolderAloneAndReplaceTakesWhatIsRegistered) {
  FakeServer server;
  server.AddAdapter("acme/x");
  EXPECT_THAT(Adapters(server, {"register", "acme/hub", "--source", "org/a@main"}).output,
              HasSubstr("registered acme/hub"));
  EXPECT_THAT(Adapters(server, {"alias", "acme/live", "acme/x"}).output, HasSubstr("= acme/x"));
  const RunResult first = Adapters(server, {"import", "acme"});
  EXPECT_THAT(first.output, HasSubstr("registered acme/x@"));
  EXPECT_THAT(first.output, Not(HasSubstr("hub")));
  EXPECT_THAT(first.output, Not(HasSubstr("live")));
  EXPECT_THAT(Adapters(server, {"import", "acme"}).error, HasSubstr("nothing to import"));
  const RunResult again = Adapters(server, {"import", "acme", "--replace"});
  EXPECT_EQ(again.code, 0) << again.error;
  EXPECT_THAT(again.output, HasSubstr("acme/x@"));
  EXPECT_THAT(Adapters(server, {"import", "acme", "--strip-group"}).output, HasSubstr(" x@"));
}

TEST(Adapters, ImportSaysWhichFoldersStayHiddenAndHowTheyComeBack) {
  FakeServer server;
  for (const char* id : {"acme/x", "acme/y", "acme/z"}) server.AddAdapter(id);
  EXPECT_EQ(Adapters(server, {"delete", "acme/y", "acme/z"}).code, 0);
  const RunResult some = Adapters(server, {"import", "acme"});
  EXPECT_EQ(some.code, 0) << some.error;
  EXPECT_THAT(some.output, HasSubstr("registered acme/x@"));
  EXPECT_THAT(some.output,
              HasSubstr("skipped acme/y: its name was deleted; to serve it again: lorica adapters "
                        "register acme/y\n"));
  EXPECT_THAT(some.output, HasSubstr("1 registered, 0 failed, 2 skipped\n"));
  const Json again = Json::parse(
      Adapters(server, {"import", "acme", "--strip-group", "--replace", "--json"}).output);
  EXPECT_EQ(again["adapters"].size(), 1u);
  ASSERT_EQ(again["skipped"].size(), 2u);
  EXPECT_EQ(again["skipped"][1]["adapter_id"], "acme/z");
  EXPECT_THAT(again["skipped"][1]["reason"].get<std::string>(),
              HasSubstr("lorica adapters register z --source acme/z"));
  EXPECT_EQ(Adapters(server, {"register", "acme/y"}).code, 0);
  EXPECT_EQ(Adapters(server, {"delete", "acme/x"}).code, 0);
  const RunResult none = Adapters(server, {"import", "acme"});
  EXPECT_EQ(none.code, 0);
  EXPECT_THAT(none.error, HasSubstr("nothing to import"));
  EXPECT_THAT(none.output, HasSubstr("0 registered, 0 failed, 2 skipped\n"));
}

TEST(Adapters, CheckEndsWithZeroOnlyWhenServable) {
  FakeServer server;
  const RunResult good = Adapters(server, {"check", "good"});
  EXPECT_EQ(good.code, 0);
  EXPECT_THAT(good.output, HasSubstr("good: can be served"));
  EXPECT_THAT(good.output, HasSubstr("self_attn.q_proj      30  8–16      16–32 / 8–16 = 2"));
  const RunResult bad = Adapters(server, {"check", "bad"});
  EXPECT_EQ(bad.code, 1);
  EXPECT_THAT(bad.output, HasSubstr("bad: cannot be served: rank 512 is above 256"));
}

TEST(Adapters, WatchPrintsEventsAsTheyCome) {
  FakeServer server;
  server.AddAdapter("a");
  const RunResult run = Adapters(server, {"watch", "--count", "2"});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_THAT(run.output, HasSubstr("a@01234567 source"));
  EXPECT_THAT(run.output, HasSubstr("gone removed"));
  Subprocess endless({LORICA_BINARY, "adapters", "watch", "--json", "--server", server.address()});
  EXPECT_TRUE(endless.WaitForOutput(R"("removed_ids":["gone"])"));
  const RunResult timed = Adapters(server, {"watch", "--timeout", "0.5"});
  EXPECT_EQ(timed.code, 1);
  EXPECT_THAT(timed.error, HasSubstr("watched for 500ms, the whole of its timeout"));
  EXPECT_THAT(timed.error, Not(HasSubstr("tokens")));
}

TEST(Adapters, AnotherTenantWantsTheKeyOfAnOperator) {
  FakeServer server;
  server.AddAdapter("a");
  const RunResult run = Adapters(server, {"list", "--tenant", "acme"});
  EXPECT_EQ(run.code, 2);
  EXPECT_EQ(run.output, "");
  EXPECT_THAT(run.error, HasSubstr("--api-key-file"));
  TemporaryFolder folder;
  folder.Write("key", "an-operators-key\n");
  EXPECT_EQ(
      Adapters(server, {"list", "--tenant", "acme", "--api-key-file", folder.path() + "/key"}).code,
      0);
}

// On a terminal, which `script` makes: what its command prints there is its output.
std::string OnTerminal(const FakeServer& server, const std::string& arguments) {
  const std::string command =
      absl::StrCat(LORICA_BINARY, " --server ", server.address(), " adapters ", arguments);
  const RunResult run = RunToEnd({"/usr/bin/script", "-qefc", command, "/dev/null"});
  EXPECT_EQ(run.code, 0) << run.output;
  return run.output;
}

TEST(Adapters, TheBarAsksForWhatIsFetchedWithTheCallsOwnToken) {
  FakeServer server;
  server.AddAdapter("a");
  server.set_fetch_delay(absl::Milliseconds(900));
  TemporaryFolder folder;
  folder.Write("token", "hf_mine\n");
  const std::string token = absl::StrCat(" --hub-token-file ", folder.path(), "/token");
  EXPECT_THAT(OnTerminal(server, "load a" + token), HasSubstr("25 %  a  1.0 MiB of 4.0 MiB"));
  EXPECT_THAT(OnTerminal(server, "register b --source org/name@v2" + token),
              HasSubstr("org/name@v2  1.0 MiB of 4.0 MiB"));
  std::vector<std::string> asked;
  for (const v1::GetAdapterRequest& look : server.looks()) {
    const std::string text = absl::StrCat(look.adapter_id(), " ", look.hub_token());
    if (asked.empty() || asked.back() != text) asked.push_back(text);
  }
  EXPECT_THAT(asked, ElementsAre("a hf_mine", "org/name@v2 hf_mine"));
}

TEST(Adapters, TheBarOfAPlaceShowsItsBytes) {
  FakeServer server;
  server.set_fetch_delay(absl::Milliseconds(900));
  for (const std::string place :
       {"s3://bucket/path", "https://host/path", "org/name/folder@v2", "org/name/folder"}) {
    EXPECT_THAT(OnTerminal(server, "register b --replace --source " + place),
                HasSubstr(place + "  1.0 MiB of 4.0 MiB"));
    EXPECT_EQ(server.looks().back().adapter_id(), place);
  }
}

// Of a look at a head and of a merge the server knows no bytes.
TEST(Adapters, TheBarOfWhatHasNoBytesAsksForNone) {
  FakeServer server;
  server.set_fetch_delay(absl::Milliseconds(900));
  EXPECT_THAT(OnTerminal(server, "check org/good"), ContainsRegex("checking  org/good  [0-9]+ ms"));
  EXPECT_THAT(OnTerminal(server, "merge both a=1 b=1"), ContainsRegex("merging  both  [0-9]+ ms"));
  EXPECT_TRUE(server.looks().empty());
}

}  // namespace
}  // namespace lorica
