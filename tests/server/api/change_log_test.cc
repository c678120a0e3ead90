#include "server/api/change_log.h"

#include <string>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/api/log_lines.h"

namespace lorica {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ChangeLog, OneLineForWhatANameIsFromNowOn) {
  RegisteredName name{.tenant = "acme", .name = "x"};
  name.MoveTo(std::string(64, 'a'), "org/a", absl::UnixEpoch(), std::string(40, 'c'));
  RegisteredName folder{.name = "y"};
  folder.MoveTo(std::string(64, 'b'), "y", absl::UnixEpoch());
  const RegisteredName alias{.name = "z", .kind = NameKind::kAlias, .target = "x"};
  const RegisteredName hidden{.name = "h", .kind = NameKind::kHidden};
  EXPECT_THAT(
      LinesOf([&] {
        LogChange("acme", "x", &name);
        LogChange("", "y", &folder);
        LogChange("", "z", &alias);
        LogChange("", "h", &hidden);
        LogChange("acme", "x", nullptr);
      }),
      ElementsAre(R"(changed tenant="acme" adapter="x" number=1 generation=aaaaaaaaaaaa )"
                  R"(source="org/a" commit=cccccccccccccccccccccccccccccccccccccccc)",
                  R"(changed tenant="" adapter="y" number=1 generation=bbbbbbbbbbbb source="y")",
                  R"(changed tenant="" adapter="z" alias_of="x")",
                  R"(changed tenant="" adapter="h" hidden)",
                  R"(changed tenant="acme" adapter="x" gone)"));
}

TEST(ChangeLog, WhatClientsSayEndsNeitherFieldNorLine) {
  RegisteredName name{.name = "x"};
  name.MoveTo(std::string(64, 'a'), "a\" gone\n", absl::UnixEpoch());
  EXPECT_THAT(LinesOf([&] { LogChange("", "x", &name); }),
              ElementsAre(HasSubstr(R"(source="a\" gone)")));
}

TEST(ChangeLog, OneLineForACopyThatWasDroppedAndOneForAllThatAStartMisses) {
  NamedGeneration first;
  first.digest = std::string(64, 'd');
  first.location = "s3://b/x";
  EXPECT_THAT(
      LinesOf([&] {
        LogDamage(std::string(64, 'c'), "org/a");
        LogLostCopies({});
        LogLostCopies({3, first});
      }),
      ElementsAre(
          AllOf(HasSubstr(R"(dropped a damaged copy generation=cccccccccccc source="org/a")"),
                HasSubstr("registered again")),
          AllOf(HasSubstr("3 copies of registered adapters are gone or have another size"),
                HasSubstr(R"(generation=dddddddddddd source="s3://b/x")"),
                HasSubstr("registered again"))));
}

}  // namespace
}  // namespace lorica
