// The completion script asks the program itself: what --help lists is what it offers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What is offered for the last of `words`, one a line.
std::string Complete(const FakeServer& server, const std::string& words) {
  const std::string script = absl::StrCat(
      "export LORICA_SERVER=", server.address(),
      "; source " LORICA_SOURCE_DIR "/client/lorica.bash; COMP_WORDS=(" LORICA_BINARY " ", words,
      "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _lorica; printf '%s\\n' \"${COMPREPLY[@]}\"");
  const RunResult run = RunToEnd({"/bin/bash", "-c", script});
  EXPECT_EQ(run.code, 0) << run.error;
  return run.output;
}

TEST(Completion, OffersCommandsOptionsAndAdapters) {
  FakeServer server;
  server.AddAdapter("ticket-triage");
  server.AddAdapter("headline");
  EXPECT_EQ(Complete(server, "ad"), "adapters\n");
  EXPECT_EQ(Complete(server, "adapters ro"), "rollback\n");
  EXPECT_THAT(Complete(server, "adapters ''"), HasSubstr("import\n"));
  EXPECT_EQ(Complete(server, "generate --temp"), "--temperature\n");
  EXPECT_EQ(Complete(server, "generate --api"), "--api-key-file\n");
  EXPECT_EQ(Complete(server, "--json generate -a t"), "ticket-triage\n");
  EXPECT_EQ(Complete(server, "adapters pin h"), "headline\n");
  EXPECT_THAT(Complete(server, "adapters register --"), HasSubstr("--replace\n"));
  EXPECT_THAT(Complete(server, "''"), Not(HasSubstr("rollback")));
}

}  // namespace
}  // namespace lorica
