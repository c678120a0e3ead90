// With --json every command prints JSON alone on stdout.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using Json = nlohmann::json;
using Words = std::vector<std::string>;

// The commands that `--help` of `parent` lists.
std::set<std::string> CommandsOf(const Words& parent) {
  Words argv = {LORICA_BINARY};
  argv.insert(argv.end(), parent.begin(), parent.end());
  argv.push_back("--help");
  std::set<std::string> commands;
  bool listed = false;
  for (const absl::string_view line : absl::StrSplit(RunToEnd(argv).output, '\n')) {
    if (listed && !absl::StartsWith(line, "  ")) break;
    if (listed) commands.insert(std::string(*absl::StrSplit(line, ' ', absl::SkipEmpty()).begin()));
    listed = listed || line == "Subcommands:";
  }
  return commands;
}

std::set<std::string> KeysOf(const std::map<std::string, Words>& commands) {
  std::set<std::string> keys;
  for (const auto& [name, words] : commands) keys.insert(name);
  return keys;
}

// One document, or one a line.
void ExpectJson(const std::string& output) {
  EXPECT_NE(output, "");
  if (Json::accept(output)) return;
  for (const absl::string_view line : absl::StrSplit(absl::StripSuffix(output, "\n"), '\n')) {
    EXPECT_TRUE(Json::accept(line)) << line;
  }
}

class JsonTest : public ::testing::Test {
 protected:
  JsonTest() {
    server_.AddAdapter("a");
    server_.AddAdapter("b");
    folder_.Write("calls.jsonl", "{\"prompt\": \"hi\"}\n{\"prompt\": \"ho\"}\n");
  }
  std::string OutputOf(const Words& words, const std::string& input = "") {
    Words argv = {LORICA_BINARY, "--server", server_.address(), "--json"};
    argv.insert(argv.end(), words.begin(), words.end());
    const RunResult run = RunToEnd(argv, input);
    EXPECT_EQ(run.code, 0) << run.error << run.output;
    return run.output;
  }

  FakeServer server_;
  TemporaryFolder folder_;
};

TEST_F(JsonTest, EveryCommandPrintsIt) {
  const std::map<std::string, Words> commands = {
      {"generate", {"hi"}},
      {"chat", {}},
      {"batch", {"--file", folder_.path() + "/calls.jsonl"}},
      {"adapters", {"list"}},
      {"status", {}},
      {"usage", {}},
      {"key", {}},
      {"tokenize", {"hi"}},
      {"bench", {"--streams", "1", "--requests", "1"}},
  };
  EXPECT_EQ(KeysOf(commands), CommandsOf({}));
  for (const auto& [name, words] : commands) {
    SCOPED_TRACE(name);
    Words argv = {name};
    argv.insert(argv.end(), words.begin(), words.end());
    ExpectJson(OutputOf(argv, "hi\n"));
  }
}

TEST_F(JsonTest, EveryCommandAboutAdaptersPrintsIt) {
  const std::map<std::string, Words> commands = {
      {"list", {}},
      {"get", {"a"}},
      {"check", {"a"}},
      {"register", {"c", "--source", "a"}},
      {"merge", {"d", "a=0.5", "b=0.5"}},
      {"rollback", {"a"}},
      {"alias", {"e", "a"}},
      {"import", {"."}},
      {"load", {"a"}},
      {"evict", {"a"}},
      {"pin", {"a"}},
      {"unpin", {"a"}},
      {"watch", {"--count", "1"}},
      {"delete", {"b"}},
  };
  EXPECT_EQ(KeysOf(commands), CommandsOf({"adapters"}));
  for (const auto& [name, words] : commands) {
    SCOPED_TRACE(name);
    Words argv = {"adapters", name};
    argv.insert(argv.end(), words.begin(), words.end());
    ExpectJson(OutputOf(argv));
  }
}

TEST_F(JsonTest, AKeyItsHashAndItsFile) {
  const Json made = Json::parse(OutputOf({"key"}));
  const std::string key = made["key"];
  const Json hashed = Json::parse(OutputOf({"key", "--hash"}, key + "\n"));
  EXPECT_EQ(hashed, (Json{{"sha256", made["sha256"]}}));
  const std::string path = folder_.path() + "/new.key";
  const Json kept = Json::parse(OutputOf({"key", "--out", path}));
  EXPECT_EQ(kept.size(), 2u) << "not the key";
  EXPECT_EQ(kept["out"], path);
  EXPECT_EQ(std::string(kept["sha256"]).size(), 64u);
}

}  // namespace
}  // namespace lorica
