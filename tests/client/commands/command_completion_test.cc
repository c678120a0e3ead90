// The completion script asks the program itself: what --help lists is what it offers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What is offered for the last of `words`, one a line, where LORICA_SERVER says `address`.
std::string CompleteAt(const std::string& address, const std::string& words) {
  const std::string script = absl::StrCat(
      "export LORICA_SERVER=", address,
      "; source " LORICA_SOURCE_DIR "/client/lorica.bash; COMP_WORDS=(" LORICA_BINARY " ", words,
      "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _lorica; printf '%s\\n' \"${COMPREPLY[@]}\"");
  const RunResult run = RunToEnd({"/bin/bash", "-c", script});
  EXPECT_EQ(run.code, 0) << run.error;
  return run.output;
}

std::string Complete(const FakeServer& server, const std::string& words) {
  return CompleteAt(server.address(), words);
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

TEST(Completion, OffersTheValuesOfOptions) {
  FakeServer server;
  server.AddAdapter("ticket-triage");
  server.AddAdapter("headline");
  EXPECT_EQ(Complete(server, "adapters pin headline --tier ''"), "host\ndevice\n");
  EXPECT_EQ(Complete(server, "adapters pin headline --tier = h"), "host\n");
  EXPECT_EQ(Complete(server, "adapters merge both --method dare_t"), "dare_ties\n");
  EXPECT_EQ(Complete(server, "adapters evict headline --down-to s"), "source\n");
  EXPECT_EQ(Complete(server, "adapters rollback headline --to ''"), "0123456789abcdef\n");
  EXPECT_EQ(Complete(server, "generate --mix h"), "headline=\n");
  EXPECT_EQ(Complete(server, "generate --mix headline = 0.7,t"), "0.7,ticket-triage=\n");
  EXPECT_EQ(Complete(server, "adapters register x --source ''"), "\n") << "it may be anything";
  EXPECT_EQ(Complete(server, "adapters register x --replace ''"), "headline\nticket-triage\n");
}

// As bash divides them: "=" and ":" are words of their own.
TEST(Completion, AsksTheServerThatTheLineNamesWithTheKeyThatItNames) {
  FakeServer server;
  server.AddAdapter("ticket-triage");
  server.WantKey("lk_mine");
  const TemporaryFolder folder;
  folder.Write("key", "lk_mine\n");
  const std::string place = absl::StrCat("--server 127.0.0.1 : ", server.port());
  const std::string key = absl::StrCat(" --api-key-file ", folder.path(), "/key ");
  const std::string nobody = "127.0.0.1:1";
  EXPECT_EQ(CompleteAt(nobody, place + key + "adapters load t"), "ticket-triage\n");
  EXPECT_EQ(CompleteAt(nobody, "adapters " + place + key + "load t"), "ticket-triage\n");
  EXPECT_EQ(CompleteAt(nobody, "adapters load " + place + key + "t"), "ticket-triage\n");
  EXPECT_EQ(CompleteAt(nobody, absl::StrCat("--server = 127.0.0.1 : ", server.port(), key,
                                            "generate -a t")),
            "ticket-triage\n");
  EXPECT_EQ(CompleteAt(nobody, place + key + "adapters rollback ticket-triage --to ''"),
            "0123456789abcdef\n");
  EXPECT_EQ(CompleteAt(nobody, place + key + "generate --mix ticket-triage = 0.7,t"),
            "0.7,ticket-triage=\n");
  EXPECT_EQ(CompleteAt(nobody, place + key + "adapters pin ticket-triage --tier h"), "host\n");
  EXPECT_EQ(CompleteAt(nobody, place + " adapters load t"), "\n") << "the server wants a key";
  EXPECT_EQ(CompleteAt(nobody, place + key + "--tls-ca " + folder.path() + "/key adapters load t"),
            "\n")
      << "it speaks no TLS";
  EXPECT_EQ(CompleteAt(nobody, "--server 127.0.0.1 : 5 adap"), "adapters\n");
}

TEST(ManPage, HasEveryCommandAndOption) {
  const RunResult run = RunToEnd({LORICA_SOURCE_DIR "/deploy/man_page.sh", LORICA_BINARY});
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_THAT(run.output, HasSubstr(".TH LORICA 1"));
  for (const char* part : {".SH LORICA GENERATE\n", ".SH LORICA ADAPTERS ROLLBACK\n",
                           "\\-\\-api\\-key\\-file", "\\-\\-strip\\-group", "NO_COLOR"}) {
    EXPECT_THAT(run.output, HasSubstr(part));
  }
}

}  // namespace
}  // namespace lorica
