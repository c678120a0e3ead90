// Goal: no grammar takes more time or memory than its bounds, or the process with it. Method: real
// children with small bounds, and grammars made to hurt.
#include "server/grammar/trial.h"

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/server/grammar/byte_vocabulary.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

int OpenFiles() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

std::string HugeEnum() {
  std::string grammar = "root ::= \"x\"";
  for (int i = 0; i < 4000; ++i) absl::StrAppend(&grammar, " | \"value ", i, "\"");
  return grammar;
}

class TrialTest : public testing::Test {
 protected:
  TrialTest() : vocabulary_(*SharedVocabulary::Make(ByteVocabulary())) {}
  GrammarTrial Trial(TrialBounds bounds) { return {TrialProgram(), vocabulary_, bounds}; }

  const std::shared_ptr<const SharedVocabulary> vocabulary_;
};

TEST_F(TrialTest, AVerdictIsThatOfTheMaker) {
  GrammarTrial trial = Trial({});
  EXPECT_TRUE(trial.Try({FormatKind::kRegex, "a+"}).ok());
  const absl::Status refused = trial.Try({FormatKind::kRegex, "(a"});
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_TRUE(trial.Try({FormatKind::kJsonObject, ""}).ok());
  EXPECT_TRUE(trial.Try({FormatKind::kEbnf, std::string(kFormatBytesMax, ' ')}).code() ==
              absl::StatusCode::kInvalidArgument);
}

TEST_F(TrialTest, WhatComputesTooLongIsEndedAndTheNextOneIsTried) {
  GrammarTrial trial = Trial({.cpu = absl::Milliseconds(300)});
  for (int i = 0; i < 2; ++i) {
    const absl::Time began = absl::Now();
    const absl::Status slow = trial.Try(EndlessFormat());
    EXPECT_TRUE(absl::IsResourceExhausted(slow)) << slow;
    EXPECT_THAT(std::string(slow.message()), HasSubstr("300ms"));
    EXPECT_LT(absl::Now() - began, absl::Seconds(10));
    EXPECT_TRUE(trial.Try({FormatKind::kRegex, "a+"}).ok());
  }
}

TEST_F(TrialTest, WhatTakesTooLongByTheClockIsKilled) {
  GrammarTrial trial = Trial({.cpu = absl::Seconds(60), .wall = absl::Milliseconds(300)});
  EXPECT_TRUE(absl::IsResourceExhausted(trial.Try(EndlessFormat())));
}

TEST_F(TrialTest, WhatNeedsTooMuchMemoryIsRefused) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers map more than any bound";
#endif
  const ResponseFormat format = {FormatKind::kEbnf, HugeEnum()};
  EXPECT_TRUE(Trial({}).Try(format).ok());
  const absl::Status refused = Trial({.bytes = 2 << 20}).Try(format);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
}

TEST_F(TrialTest, NothingIsLeftOpen) {
  const int before = OpenFiles();
  for (int i = 0; i < 3; ++i) {
    GrammarTrial trial = Trial({.cpu = absl::Milliseconds(100)});
    ASSERT_TRUE(trial.Try({FormatKind::kRegex, "a"}).ok());
    ASSERT_FALSE(trial.Try(EndlessFormat()).ok());
    ASSERT_TRUE(trial.Try({FormatKind::kRegex, "a"}).ok());
  }
  EXPECT_EQ(OpenFiles(), before);
}

TEST_F(TrialTest, WithoutItsProgramNothingIsTried) {
  GrammarTrial trial("/nowhere/lorica-grammar", vocabulary_, {});
  const absl::Status status = trial.Try({FormatKind::kRegex, "a"});
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
}

}  // namespace
}  // namespace lorica
