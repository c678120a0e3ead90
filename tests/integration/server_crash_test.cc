// Goal: whenever a server is killed, also while it starts, the next one starts by itself, each name
// is and says what was last acknowledged of it, and nothing half is there. Method: operators
// register from folders and a hub, replace, import, merge, alias, roll back, delete and pin over
// gRPC as fast as they can; the process is killed at a random moment; what its successor tells of
// each name, holds on its disk and answers is compared with the acknowledgements.
//
//   server_crash_test                       a few kills
//   server_crash_test --kills=N --seed=N    more
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/fakes/fake_hub.h"
#include "tests/integration/server_process.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using Tokens = std::vector<int32_t>;

constexpr int kOperators = 2;
// Of each operator, so that what one does never changes what another sees.
constexpr int kNames = 3, kAliases = 2, kFolders = 4, kRepos = 3, kImports = 2, kMerges = 2;
constexpr int kAnswerTokens = 6;
const absl::Duration kStartMax = kInstrumentationFactor * absl::Seconds(10);
const absl::Duration kCutMax = kInstrumentationFactor * absl::Seconds(5);
constexpr int kLifeUsMax = 120'000 * kInstrumentationFactor;
constexpr int kStartUsMax = 60'000 * kInstrumentationFactor;  // about what a start takes
constexpr char kGone[] = "-";

int g_kills = 60;
uint64_t g_seed = 1;

// What a server says of a name: "<digest>;registered" or "<digest>;folder" with all of its history,
// ">target;", kGone, or an error.
struct Seen {
  std::string state = kGone;
  std::vector<std::string> history;  // digests
  std::string digest;
};

// What is known of a name. While a change is under way, or the server was killed before it could be
// asked again: how what the name is then may begin.
struct Known {
  Seen seen;
  std::vector<std::string> wanted;
  bool acknowledged = false;

  bool Allows(const std::string& state) const {
    for (const std::string& beginning : wanted) {
      if (absl::StartsWith(state, beginning)) return true;
    }
    return !acknowledged && state == seen.state;
  }
};

std::string Registered(const std::string& digest) { return digest + ";registered"; }

// nullopt: the server is gone.
std::optional<Seen> Look(LoricaClient& client, const std::string& name) {
  v1::GetAdapterRequest request;
  request.set_adapter_id(name);
  const auto answer = client.GetAdapter(request, {.timeout = kCutMax});
  if (absl::IsUnavailable(answer.status())) return std::nullopt;
  if (absl::IsNotFound(answer.status())) return Seen{};
  if (!answer.ok()) return Seen{answer.status().ToString()};
  const v1::Adapter& adapter = answer->adapter();
  Seen seen;
  seen.digest = adapter.generation();
  if (!adapter.alias_of().empty()) {
    seen.state = absl::StrCat(">", adapter.alias_of(), ";");
    return seen;
  }
  seen.state = absl::StrCat(adapter.generation(), adapter.registered() ? ";registered" : ";folder",
                            ";", adapter.source(), ";", adapter.commit(), ";", adapter.error());
  for (const v1::RegisteredGeneration& one : answer->history()) {
    seen.history.push_back(one.generation());
    absl::StrAppend(&seen.state, "; ", one.ShortDebugString());
  }
  return seen;
}

v1::MergeAdaptersRequest MergeRequest(int number, int which) {
  v1::MergeAdaptersRequest request;
  request.set_method(v1::MERGE_METHOD_LINEAR);
  for (int part = 0; part < 2; ++part) {
    v1::MergePart& one = *request.add_parts();
    one.set_adapter_id(absl::StrCat("v", number, "-", which + part));
    one.set_weight(0.5 + part);
  }
  return request;
}

// One who changes names until the server is gone.
class Operator {
 public:
  // `digests`: of all that can be registered, by place.
  Operator(int number, const std::map<std::string, std::string>& digests)
      : number_(number), digests_(digests) {
    for (int i = 0; i < kNames; ++i) names_.push_back(absl::StrCat("name", number, "-", i));
    for (int i = 0; i < kAliases; ++i) aliases_.push_back(absl::StrCat("alias", number, "-", i));
    for (int i = 0; i < kImports; ++i) imports_.push_back(absl::StrCat("in", number, "/", i));
  }

  std::map<std::string, Known>& known() { return known_; }
  // As they are before the first change: imports are folders already.
  void LookFirst(LoricaClient& client) {
    for (const auto* names : {&names_, &aliases_, &imports_}) {
      for (const std::string& name : *names) known_[name].seen = Look(client, name).value();
    }
  }
  int acknowledged() const { return acknowledged_; }
  int cut() const { return cut_; }

  void Work(const ServerProcess& server, uint64_t seed) {
    const auto client = server.NewClient();
    client_ = client.get();
    random_.seed(seed);
    while (Act()) continue;
  }

 private:
  using Answer = absl::StatusOr<std::string>;  // the digest that it tells, or ""

  int Draw(int count) { return static_cast<int>(random_() % count); }
  const std::string& OneOf(const std::vector<std::string>& of) { return of[Draw(of.size())]; }

  bool Act() {
    switch (Draw(10)) {
      case 0:
      case 1:
        return Register(absl::StrCat("v", number_, "-", Draw(kFolders)));
      case 2:
      case 3:
        return Register(absl::StrCat("org/h", number_, "-", Draw(kRepos)));
      case 4:
        return Merge(Draw(kMerges));
      case 5:
        return Import(OneOf(imports_));
      case 6:
        return RollBack(OneOf(names_));
      case 7:
        return Delete(Draw(3) == 0 ? OneOf(imports_) : OneOf(Draw(2) == 0 ? names_ : aliases_));
      case 8:
        return Alias(OneOf(aliases_), OneOf(names_));
      default:
        return Pin(OneOf(names_));
    }
  }

  // False: the server is gone.
  template <typename Call>
  bool Change(const std::string& name, std::vector<std::string> wanted, const Call& call) {
    Known& known = known_[name];
    known.wanted = std::move(wanted);
    known.acknowledged = false;
    const Answer answer = call();
    if (absl::IsUnavailable(answer.status())) return !++cut_;
    if (answer.ok()) {
      ++acknowledged_;
      known.acknowledged = true;
      if (!answer->empty()) known.wanted = {Registered(*answer)};
    } else {
      known.wanted.clear();  // refused: it is what it was
    }
    const std::optional<Seen> now = Look(*client_, name);
    if (!now) return false;
    EXPECT_TRUE(known.Allows(now->state)) << name << " is " << now->state << answer.status();
    known = {*now};
    return true;
  }

  bool Register(const std::string& place) {
    const std::string& name = OneOf(names_);
    v1::RegisterAdapterRequest request;
    request.set_adapter_id(name);
    request.set_source(place);
    const std::string& now = known_[name].seen.digest;
    if (Draw(3) == 0 && !now.empty()) {
      request.set_expected_generation(Draw(2) == 0 ? now : digests_.at(place));
    } else {
      request.set_replace(Draw(4) != 0);
    }
    return Change(name, {Registered(digests_.at(place))}, [&]() -> Answer {
      const auto answer = client_->RegisterAdapter(request, {.timeout = kStartMax});
      return answer.ok() ? Answer(answer->adapter().generation()) : answer.status();
    });
  }

  // As `lorica adapters import` does with each folder.
  bool Import(const std::string& folder) {
    v1::RegisterAdapterRequest request;
    request.set_adapter_id(folder);
    request.set_source(folder);
    return Change(folder, {Registered(digests_.at(folder))}, [&]() -> Answer {
      const auto answer = client_->RegisterAdapter(request, {.timeout = kStartMax});
      return answer.ok() ? Answer(answer->adapter().generation()) : answer.status();
    });
  }

  bool Merge(int which) {
    v1::MergeAdaptersRequest request = MergeRequest(number_, which);
    request.set_adapter_id(OneOf(names_));
    request.set_replace(true);
    const std::string& digest = digests_.at(absl::StrCat("m", number_, "-", which));
    return Change(request.adapter_id(), {Registered(digest)}, [&]() -> Answer {
      const auto answer = client_->MergeAdapters(request, {.timeout = kStartMax});
      return answer.ok() ? Answer(answer->adapter().generation()) : answer.status();
    });
  }

  bool RollBack(const std::string& name) {
    const Seen& seen = known_[name].seen;
    v1::RollbackAdapterRequest request;
    request.set_adapter_id(name);
    if (Draw(2) == 0 && !seen.history.empty()) request.set_generation(OneOf(seen.history));
    std::vector<std::string> wanted;
    for (const std::string& digest : seen.history) wanted.push_back(Registered(digest));
    return Change(name, wanted, [&]() -> Answer {
      const auto answer = client_->RollbackAdapter(request, {.timeout = kStartMax});
      return answer.ok() ? Answer(answer->adapter().generation()) : answer.status();
    });
  }

  bool Delete(const std::string& name) {
    v1::DeleteAdapterRequest request;
    request.set_adapter_id(name);
    return Change(name, {kGone}, [&]() -> Answer {
      const absl::Status status = client_->DeleteAdapter(request, {.timeout = kStartMax});
      return status.ok() ? Answer("") : status;
    });
  }

  bool Alias(const std::string& alias, const std::string& target) {
    v1::SetAliasRequest request;
    request.set_alias(alias);
    request.set_adapter_id(target);
    request.set_replace(true);
    return Change(alias, {absl::StrCat(">", target, ";")}, [&]() -> Answer {
      const absl::Status status = client_->SetAlias(request, {.timeout = kStartMax}).status();
      return status.ok() ? Answer("") : status;
    });
  }

  // Changes no name.
  bool Pin(const std::string& name) {
    v1::PinAdapterRequest request;
    request.set_adapter_id(name);
    request.set_tier(Draw(2) == 0 ? v1::TIER_HOST : v1::TIER_DEVICE);
    return Change(name, {known_[name].seen.state}, [&]() -> Answer {
      const auto answer = client_->PinAdapter(request, {.timeout = kStartMax});
      if (!answer.ok()) return answer.status();
      EXPECT_EQ(answer->adapter().pinned(), request.tier()) << name;
      return Answer("");
    });
  }

  const int number_;
  const std::map<std::string, std::string>& digests_;
  std::vector<std::string> names_;
  std::vector<std::string> aliases_;
  std::vector<std::string> imports_;
  std::map<std::string, Known> known_;
  std::mt19937_64 random_;
  LoricaClient* client_ = nullptr;
  int acknowledged_ = 0;
  int cut_ = 0;
};

class ServerCrashTest : public ::testing::Test {
 protected:
  ServerCrashTest() : random_(g_seed) {
    int seed = 0;
    for (int k = 0; k < kOperators; ++k) {
      for (int i = 0; i < kFolders; ++i) Write(absl::StrCat("v", k, "-", i), ++seed);
      for (int i = 0; i < kImports; ++i) Write(absl::StrCat("in", k, "/", i), ++seed);
      for (int i = 0; i < kRepos; ++i) {
        const std::string name = absl::StrCat("h", k, "-", i);
        WriteTinyAdapter(of_repos_, name, 4, false, ++seed);
        hub_.Commit("org/" + name, FakeHub::FilesOf(of_repos_.path() + "/" + name));
        places_.push_back("org/" + name);
      }
    }
  }
  void Write(const std::string& folder, int seed) {
    WriteTinyAdapter(adapters_, folder, 4, false, seed);
    places_.push_back(folder);
  }

  ServerProcess::Options OptionsOn(const std::string& data) const {
    ServerProcess::Options options;
    options.client.retry.attempts_max = 1;
    options.client.connect_wait = kStartMax;
    options.model = TinyModelPath();
    options.adapters_dir = adapters_.path();
    options.data_dir = data;
    options.flags = {"--threads",
                     "1",
                     "--arena-bytes",
                     "16MiB",
                     "--hub-allow",
                     "org/*",
                     "--hub-redirect-hosts",
                     hub_.cdn_place(),
                     "--hub-endpoint",
                     hub_.endpoint()};
    options.start_limit = kStartMax;
    return options;
  }

  // Digest and answer of all that can be registered, as a server that is never killed has them.
  void AskTheUnharmed() {
    TemporaryFolder data;
    auto server = ServerProcess::Start(OptionsOn(data.path()));
    ASSERT_TRUE(server.ok()) << server.status();
    const auto client = (*server)->NewClient();
    int count = 0;
    const auto add = [&](const std::string& place, const absl::Status& status) {
      ASSERT_TRUE(status.ok()) << status;
      v1::GenerateResponse answer = Answer(*client, absl::StrCat("as", count++));
      const std::string& digest = digests_[place] = answer.adapter().generation();
      answers_[digest] = Tokens(answer.token_ids().begin(), answer.token_ids().end());
    };
    for (const std::string& place : places_) {
      v1::RegisterAdapterRequest request;
      request.set_adapter_id(absl::StrCat("as", count));
      request.set_source(place);
      add(place, client->RegisterAdapter(request).status());
    }
    for (int k = 0; k < kOperators; ++k) {
      for (int i = 0; i < kMerges; ++i) {
        v1::MergeAdaptersRequest request = MergeRequest(k, i);
        request.set_adapter_id(absl::StrCat("as", count));
        add(absl::StrCat("m", k, "-", i), client->MergeAdapters(request).status());
      }
    }
    std::set<Tokens> different;
    for (const auto& [digest, answer] : answers_) different.insert(answer);
    EXPECT_GT(different.size(), answers_.size() / 2) << "answers tell contents apart";
  }

  static v1::GenerateResponse Answer(LoricaClient& client, const std::string& name) {
    v1::GenerateRequest request = TokensRequest(kAnswerTokens);
    request.set_adapter_id(name);
    auto answer = client.Generate(request, {.timeout = kStartMax});
    EXPECT_TRUE(answer.ok()) << name << ": " << answer.status();
    return answer.ok() ? *std::move(answer) : v1::GenerateResponse();
  }
  void ExpectAnswer(LoricaClient& client, const std::string& name, const std::string& digest) {
    const v1::GenerateResponse answer = Answer(client, name);
    EXPECT_EQ(answer.adapter().generation(), digest) << name;
    ASSERT_TRUE(answers_.contains(digest)) << digest;
    EXPECT_EQ(Tokens(answer.token_ids().begin(), answer.token_ids().end()), answers_[digest])
        << name;
  }

  static std::set<std::string> EntriesOf(const std::string& folder) {
    std::set<std::string> entries;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      entries.insert(entry.path().filename());
    }
    return entries;
  }

  // Each name of an operator is what it may be, and answers as that; `kept`: all it stands for.
  void Compare(LoricaClient& client, Operator& one, std::set<std::string>* kept,
               std::set<std::string>* listed) {
    for (auto& [name, known] : one.known()) {
      const std::optional<Seen> now = Look(client, name);
      ASSERT_TRUE(now.has_value()) << name;
      const bool settled = known.wanted.empty();
      ASSERT_TRUE(settled ? now->state == known.seen.state : known.Allows(now->state))
          << name << "\n was " << known.seen.state << "\n asked for "
          << ::testing::PrintToString(known.wanted) << " acknowledged " << known.acknowledged
          << "\n is " << now->state;
      known = {*now};
    }
    for (const auto& [name, known] : one.known()) {
      const Seen& seen = known.seen;
      if (seen.state == kGone) continue;
      if (!absl::StrContains(seen.state, ";folder;")) listed->insert(name);
      if (seen.state[0] == '>') {
        const std::string target = seen.state.substr(1, seen.state.size() - 2);
        EXPECT_EQ(seen.digest, one.known()[target].seen.digest) << name;
      }
      kept->insert(seen.history.begin(), seen.history.end());
      ExpectAnswer(client, name, seen.digest);
      if (seen.history.empty()) continue;
      const std::string& earlier = seen.history[random_() % seen.history.size()];
      ExpectAnswer(client, absl::StrCat(name, "@", earlier), earlier);
    }
  }

  void CompareAll(const ServerProcess& server, std::vector<Operator>& operators) {
    // Before anything is asked for: afterwards what is used would stay.
    const std::set<std::string> copies = EntriesOf(data_.path() + "/registered");
    EXPECT_EQ(EntriesOf(data_.path() + "/fetched/tmp"), std::set<std::string>());
    EXPECT_THAT(server.Log(), ::testing::Not(::testing::HasSubstr("[warn")));
    EXPECT_THAT(server.Log(), ::testing::Not(::testing::HasSubstr("[error")));
    const auto client = server.NewClient();
    std::set<std::string> kept;
    std::set<std::string> listed;
    const auto all = client->AllAdapters();
    ASSERT_TRUE(all.ok()) << all.status();
    for (Operator& one : operators) {
      ASSERT_NO_FATAL_FAILURE(Compare(*client, one, &kept, &listed));
    }
    EXPECT_EQ(copies, kept) << "each name's contents, and nothing else";
    std::set<std::string> found;
    for (const v1::Adapter& adapter : *all) {
      if (adapter.registered() || !adapter.alias_of().empty()) found.insert(adapter.adapter_id());
      EXPECT_EQ(adapter.pinned(), v1::TIER_UNSPECIFIED) << "memory is empty after a start";
    }
    EXPECT_EQ(found, listed) << "each name, and no other";
  }

  // As one that is killed while it starts leaves it.
  void KillAStart() {
    const auto server = ServerProcess::Launch(OptionsOn(data_.path()));
    ASSERT_TRUE(server.ok()) << server.status();
    absl::SleepFor(absl::Microseconds(random_() % kStartUsMax));
    (*server)->Signal(SIGKILL);
    ASSERT_EQ((*server)->WaitForExit(kCutMax), 128 + SIGKILL) << (*server)->Log();
  }

  FakeHub hub_;
  TemporaryFolder adapters_;
  TemporaryFolder of_repos_;
  TemporaryFolder data_;
  std::vector<std::string> places_;
  std::map<std::string, std::string> digests_;  // by place
  std::map<std::string, Tokens> answers_;       // by digest
  std::mt19937_64 random_;
};

// Row 107.
TEST_F(ServerCrashTest, WhatWasAcknowledgedIsServedAndNothingIsHalf) {
  ASSERT_NO_FATAL_FAILURE(AskTheUnharmed());
  std::vector<Operator> operators;
  for (int k = 0; k < kOperators; ++k) operators.emplace_back(k, digests_);
  for (int kill = 0; kill < g_kills; ++kill) {
    SCOPED_TRACE(absl::StrCat("kill ", kill, " seed ", g_seed));
    if (random_() % 4 == 0) KillAStart();
    ASSERT_FALSE(HasFailure());
    auto server = ServerProcess::Start(OptionsOn(data_.path()));
    ASSERT_TRUE(server.ok()) << server.status();
    if (kill == 0) {
      for (Operator& one : operators) one.LookFirst(*(*server)->NewClient());
    }
    ASSERT_NO_FATAL_FAILURE(CompareAll(**server, operators));
    std::vector<std::thread> threads;
    for (Operator& one : operators) {
      threads.emplace_back([&one, &server, seed = random_()] { one.Work(**server, seed); });
    }
    absl::SleepFor(absl::Microseconds(random_() % kLifeUsMax));
    (*server)->Signal(SIGKILL);
    ASSERT_EQ((*server)->WaitForExit(kCutMax), 128 + SIGKILL) << (*server)->Log();
    for (std::thread& thread : threads) thread.join();
    ASSERT_FALSE(HasFailure());
  }
  auto server = ServerProcess::Start(OptionsOn(data_.path()));
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_NO_FATAL_FAILURE(CompareAll(**server, operators));
  int acknowledged = 0;
  int cut = 0;
  for (const Operator& one : operators) {
    acknowledged += one.acknowledged();
    cut += one.cut();
  }
  std::printf("%d kills, %d acknowledged changes, %d cut\n", g_kills, acknowledged, cut);
  EXPECT_GT(acknowledged, 2 * g_kills);
  EXPECT_GT(cut, g_kills / 4);
}

}  // namespace
}  // namespace lorica

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (absl::StartsWith(argument, "--kills=")) {
      lorica::g_kills = std::atoi(argv[i] + 8);
    } else if (absl::StartsWith(argument, "--seed=")) {
      lorica::g_seed = std::strtoull(argv[i] + 7, nullptr, 10);
    } else {
      std::fprintf(stderr, "unknown argument %s; known: --kills=N --seed=N\n", argv[i]);
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
