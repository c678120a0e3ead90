// Walks the repository and holds it against the house rules, after showing on made-up
// files that each rule can fail.
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/tidy/rules.h"

namespace lorica::tidy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// What git ignores, and what is no part of the repository.
bool IsOutside(const std::filesystem::path& name) {
  return name == ".git" || name == "build" || name == ".bundle" || name == ".cache" ||
         name == ".carry" || name == "__pycache__" || name == "shared";
}

bool IsText(const std::filesystem::path& path) {
  const std::string extension = path.extension();
  return extension != ".safetensors" && extension != ".npy" && extension != ".gguf" &&
         extension != ".png" && extension != ".json" && extension != ".jsonl";
}

std::string Read(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

const Files& Repository() {
  static const Files* const repository = [] {
    auto* files = new Files;
    const std::filesystem::path root = LORICA_SOURCE_DIR;
    for (std::filesystem::recursive_directory_iterator it(root), end; it != end; ++it) {
      if (it->is_directory() && IsOutside(it->path().filename())) {
        it.disable_recursion_pending();
      } else if (it->is_regular_file()) {
        files->push_back({std::filesystem::relative(it->path(), root).generic_string(),
                          IsText(it->path()) ? Read(it->path()) : ""});
      }
    }
    return files;
  }();
  return *repository;
}

// Every complaint of a rule about the repository, one a line.
std::string AllOf(Complaints (*rule)(const Files&)) {
  return absl::StrJoin(rule(Repository()), "\n");
}

// A header that every rule likes, for tests to spoil.
File GoodHeader(const std::string& path) {
  return {path,
          "// A thing that is made once and read by many threads.\n"
          "// Whoever made it owns it; nothing here locks.\n"
          "#pragma once\n"
          "\n"
          "class Thing {};  // plain\n"};
}

// --- the tree -----------------------------------------------------------------

TEST(TreeTest, IsFound) { EXPECT_GT(Repository().size(), 50u); }
TEST(TreeTest, IncludesPointOneWay) { EXPECT_EQ(AllOf(IncludeDirection), ""); }
TEST(TreeTest, CudaStaysInKernels) { EXPECT_EQ(AllOf(CudaStaysInKernels), ""); }
TEST(TreeTest, WaitsSayHowLong) { EXPECT_EQ(AllOf(WaitsSayHowLong), ""); }
TEST(TreeTest, HeadersTeach) { EXPECT_EQ(AllOf(HeaderProse), ""); }
TEST(TreeTest, LinesAndFilesAreShort) { EXPECT_EQ(AllOf(Layout), ""); }
TEST(TreeTest, NothingIsLeftToDo) { EXPECT_EQ(AllOf(LeftoverMarks), ""); }
TEST(TreeTest, NoFileIsDead) { EXPECT_EQ(AllOf(DeadFiles), ""); }
TEST(TreeTest, ArchitectureNamesExist) { EXPECT_EQ(AllOf(ArchitectureNames), ""); }
TEST(TreeTest, MarkdownIsWellFormed) { EXPECT_EQ(AllOf(MarkdownShape), ""); }
TEST(TreeTest, SpeaksOfItselfAlone) { EXPECT_EQ(AllOf(ForeignMentions), ""); }
TEST(TreeTest, TestsMirrorTheCode) { EXPECT_EQ(AllOf(MirroredTests), ""); }
TEST(TreeTest, EveryFaultHasItsTests) { EXPECT_EQ(AllOf(FaultTable), ""); }
TEST(TreeTest, TypesHaveNamesOfTheirOwn) { EXPECT_EQ(AllOf(OneDefinition), ""); }
TEST(TreeTest, ScriptsStopAtErrors) { EXPECT_EQ(AllOf(StrictScripts), ""); }

TEST(TreeTest, ScriptsAreExecutableUnlessSourced) {
  for (const File& file : Repository()) {
    if (!IsScript(file) || !file.text.starts_with("#!")) continue;
    const auto mode = std::filesystem::status(LORICA_SOURCE_DIR "/" + file.path).permissions();
    EXPECT_NE(mode & std::filesystem::perms::owner_exec, std::filesystem::perms::none) << file.path;
  }
}

// --- the rules ----------------------------------------------------------------

std::string Include(const std::string& target) { return "#include \"" + target + "\"\n"; }

TEST(IncludeDirectionTest, LetsLeftIncludeRight) {
  EXPECT_THAT(IncludeDirection({{"adapters/a.cc", Include("kernels/k.h")},
                                {"adapters/b.cc", Include("adapters/hub/source.h")},
                                {"server/engine/e.cc", Include("adapters/hub/source.h")},
                                {"server/api/g.cc", Include("lorica/v1/inference.pb.h")},
                                {"server/main.cc", Include("server/api/gateway.h")},
                                {"client/main.cc", "#include <vector>\n" + Include("absl/a.h")},
                                {"tests/client/x_test.cc", Include("kernels/k.h")}}),
              IsEmpty());
}

TEST(IncludeDirectionTest, RefusesEveryArrowThatPointsUp) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"kernels/a.cc", "adapters/adapter.h"},
      {"kernels/a.cc", "lorica/v1/server.pb.h"},
      {"kernels/cuda/device/a.cuh", "kernels/tensor.h"},
      {"adapters/hub/a.cc", "adapters/adapter.h"},
      {"adapters/hub/a.cc", "kernels/tensor.h"},
      {"adapters/a.cc", "server/engine/engine.h"},
      {"server/text/a.cc", "kernels/tensor.h"},
      {"server/models/a.cc", "adapters/adapter.h"},
      {"server/models/a.cc", "server/text/tokenizer.h"},
      {"server/engine/a.cc", "server/text/tokenizer.h"},
      {"server/engine/a.cc", "lorica/v1/inference.pb.h"},
      {"server/api/a.cc", "server/models/model.h"},
      {"server/api/a.cc", "server/server.h"},
      {"client/a.cc", "server/config.h"},
      {"client/a.cc", "kernels/tensor.h"},
      {"server/main.cc", "tests/fakes/x.h"},
  };
  for (const auto& [from, to] : wrong) {
    EXPECT_THAT(IncludeDirection({{from, Include(to)}}), SizeIs(1)) << from << " -> " << to;
  }
}

TEST(IncludeDirectionTest, WantsPathsFromTheRoot) {
  EXPECT_THAT(IncludeDirection({{"kernels/a.cc", Include("../kernels/b.h")}}), SizeIs(1));
  EXPECT_THAT(IncludeDirection({{"kernels/a.cc", Include("b.h")}, {"kernels/b.h", ""}}), SizeIs(1));
}

TEST(CudaStaysInKernelsTest, RefusesHeadersAndMacrosElsewhere) {
  EXPECT_THAT(CudaStaysInKernels({{"server/a.cc", "#include <cuda_runtime.h>\n"},
                                  {"adapters/a.cc", "#ifdef __CUDACC__\n#endif\n"}}),
              SizeIs(2));
  EXPECT_THAT(CudaStaysInKernels({{"kernels/cuda/a.cu", "#include <cuda_runtime.h>\n"}}),
              IsEmpty());
}

TEST(WaitsSayHowLongTest, RefusesTimesOfTheWallClock) {
  const File until = {"server/a.cc",
                      "mutex.AwaitWithDeadline(some, end);\nchanged.wait_until(lock, end);\n"
                      "std::timed_mutex mutex;\npthread_cond_timedwait(&a, &b, &end);\n"
                      "sem_timedwait(&a, &end);\n"};
  EXPECT_THAT(WaitsSayHowLong({until}), SizeIs(5));
  EXPECT_THAT(WaitsSayHowLong({{"tests/server/a_test.cc", until.text}}), IsEmpty());
  EXPECT_THAT(WaitsSayHowLong({{"server/a.cc",
                                "mutex.AwaitWithTimeout(some, wait);\n"
                                "WaitUntilServing(limit);\n"}}),
              IsEmpty());
}

// Makes kernels/thing.h public.
File Includer() { return {"adapters/a.cc", Include("kernels/thing.h")}; }

TEST(HeaderProseTest, LikesAHeaderThatOpensWithSentences) {
  EXPECT_THAT(HeaderProse({GoodHeader("kernels/thing.h"), Includer()}), IsEmpty());
}

TEST(HeaderProseTest, WantsProseOfPublicHeaders) {
  const File brief = {"kernels/thing.h", "// A thing in short.\n#pragma once\nint x;  // y\n"};
  EXPECT_THAT(HeaderProse({brief}), IsEmpty()) << "private";
  EXPECT_THAT(HeaderProse({brief, Includer()}), ElementsAre(HasSubstr("other folders include it")));
}

TEST(HeaderProseTest, WantsALineOfPrivateHeaders) {
  EXPECT_THAT(HeaderProse({{"kernels/a.h", "\n#pragma once\n"}}),
              ElementsAre(HasSubstr("says what it is")));
}

TEST(HeaderProseTest, CountsCommentsPerCodeLine) {
  File crowded = GoodHeader("kernels/thing.h");
  for (int i = 0; i < 40; ++i) crowded.text += "int x;\n";
  EXPECT_THAT(HeaderProse({crowded, Includer()}), SizeIs(2)) << "the header, and its folder";
}

TEST(HeaderProseTest, WantsPragmaOnceOfTestHeadersToo) {
  EXPECT_THAT(HeaderProse({{"tests/fakes/a.h", "int x;\n"}}),
              ElementsAre(HasSubstr("#pragma once")));
}

TEST(LayoutTest, CountsCharactersNotBytes) {
  std::string wide;
  for (int i = 0; i < kLineWidthMax; ++i) wide += "é";
  EXPECT_THAT(Layout({{"a.cc", wide + "\n"}}), IsEmpty());
  EXPECT_THAT(Layout({{"a.cc", wide + "x\n"}}), ElementsAre(HasSubstr("101 characters")));
}

TEST(LayoutTest, RefusesTabsBlanksAndAMissingEnd) {
  EXPECT_THAT(Layout({{"a.cc", "\tx\n"}}), ElementsAre(HasSubstr("a.cc:1: a tab")));
  EXPECT_THAT(Layout({{"a.sh", "x \n"}}), ElementsAre(HasSubstr("blanks")));
  EXPECT_THAT(Layout({{"a.proto", "x"}}), ElementsAre(HasSubstr("end of line")));
}

TEST(LayoutTest, BoundsTheLengthOfAFile) {
  std::string text;
  for (int i = 0; i < kFileLinesMax; ++i) text += "x\n";
  EXPECT_THAT(Layout({{"a.cc", text}}), IsEmpty());
  EXPECT_THAT(Layout({{"a.cc", text + "x\n"}}), SizeIs(1));
}

TEST(LeftoverMarksTest, FindsNotesToSelf) {
  EXPECT_THAT(LeftoverMarks({{"a.cc", "// TODO: more\n"}, {"b.md", "FIXME\n"}, {"c.py", "#XXX\n"}}),
              SizeIs(3));
  EXPECT_THAT(LeftoverMarks({{"a.cc", "int TODOS;\n"}}), IsEmpty());
}

TEST(DeadFilesTest, FindsSourcesThatNobodyBuildsOrIncludes) {
  const File cmake = {"kernels/CMakeLists.txt", "add_library(k cpu/a.cc)\n"};
  EXPECT_THAT(DeadFiles({cmake, {"kernels/cpu/a.cc", "1\n2\n3\n"}}), IsEmpty());
  EXPECT_THAT(DeadFiles({{"tests/k/CMakeLists.txt", "foreach(name a_test b_test)"},
                         {"tests/k/a_test.cc", "1\n2\n3\n"}}),
              IsEmpty());
  EXPECT_THAT(DeadFiles({cmake, {"kernels/cpu/b.cc", "1\n2\n3\n"}}),
              ElementsAre(HasSubstr("no CMakeLists.txt builds it")));
  EXPECT_THAT(DeadFiles({{"kernels/a.h", "1\n2\n3\n"}}), ElementsAre(HasSubstr("includes it")));
  EXPECT_THAT(DeadFiles({{"tests/a.py", "pass\n"}}), ElementsAre(HasSubstr("mentions it")));
}

TEST(DeadFilesTest, FindsEmptyShells) {
  EXPECT_THAT(DeadFiles({{"k/CMakeLists.txt", "a.cc"}, {"k/a.cc", "// later\n"}}),
              ElementsAre(HasSubstr("empty shell")));
}

TEST(ArchitectureNamesTest, KnowsTypesMethodsAndMessages) {
  const Files known = {{"server/engine/engine.h", "class Engine {\n  StepReport Step(Time);\n};\n"},
                       {"proto/lorica/v1/a.proto", "service AdapterService {}\n"},
                       {"ARCHITECTURE.md",
                        "# A\n`Engine::Step` and `Engine`, `AdapterService`, `x-header`, `CPU`\n"}};
  EXPECT_THAT(ArchitectureNames(known), IsEmpty());
  EXPECT_THAT(ArchitectureNames({{"ARCHITECTURE.md", "# A\n`HttpService` takes it.\n"}}),
              ElementsAre(HasSubstr("no header declares HttpService")));
  Files missing_method = known;
  missing_method.back().text = "# A\n`Engine::Fly`\n";
  EXPECT_THAT(ArchitectureNames(missing_method), SizeIs(1));
}

TEST(MarkdownShapeTest, WantsOneTitle) {
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\n\n```sh\n# a comment\n```\n"}}), IsEmpty());
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\n# B\n"}}), SizeIs(1));
  EXPECT_THAT(MarkdownShape({{"a.md", "Text\n"}}), SizeIs(1));
}

TEST(MarkdownShapeTest, WantsLinesThatAreReadAsTheyAre) {
  const std::string wide(kMarkdownWidthMax - 1, 'x');
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\n\ny" + wide + "\n"}}), IsEmpty());
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\n\nyy" + wide + "\n"}}),
              ElementsAre(HasSubstr("131 wide")));
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\n\n- é" + wide + "\n"}}), SizeIs(1));
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\n\n| " + wide + " |\n"}}), IsEmpty()) << "of a table";
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\n\n```text\nyy" + wide + "\n```\n"}}), IsEmpty());
}

TEST(MarkdownShapeTest, FollowsLinksAndPaths) {
  const File target = {"client/README.md", "# C\n"};
  EXPECT_THAT(MarkdownShape({target, {"a.md", "# A\n[c](client/README.md#x) `client/`\n"}}),
              IsEmpty());
  EXPECT_THAT(MarkdownShape({target, {"client/b.md", "# B\n[c](../client/README.md)\n"}}),
              IsEmpty());
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\n[c](client/gone.md)\n"}}), SizeIs(1));
  EXPECT_THAT(MarkdownShape({{"a.md", "# A\nopen `kernels/gone.h` first\n"}}), SizeIs(1));
}

TEST(ForeignMentionsTest, FindsMachinesHostsAndIssues) {
  EXPECT_THAT(ForeignMentions({{"a.md", "see /root/x\n"},
                               {"b.cc", "// from files.pythonhosted.org\n"},
                               {"c.md", "closes issue 12\n"}}),
              SizeIs(3));
  EXPECT_THAT(ForeignMentions({{"a.md", "~/.cache/lorica holds the model\n"}}), IsEmpty());
}

TEST(MirroredTestsTest, WantsSomethingToTest) {
  EXPECT_THAT(MirroredTests({{"tests/kernels/a_test.cc", "TEST(A, B)"}, {"kernels/a.h", ""}}),
              IsEmpty());
  EXPECT_THAT(
      MirroredTests({{"tests/kernels/lora_test.cc", "TEST(A, B)"}, {"kernels/cpu/lora.cc", ""}}),
      IsEmpty());
  EXPECT_THAT(MirroredTests(
                  {{"tests/kernels/lora_more_test.cc", "TEST(A, B)"}, {"kernels/cpu/lora.cc", ""}}),
              IsEmpty());
  EXPECT_THAT(MirroredTests({{"tests/kernels/a_more_test.cc", "TEST(A, B)"}, {"kernels/a.h", ""}}),
              IsEmpty());
  EXPECT_THAT(MirroredTests({{"tests/integration/road_test.cc", "TEST(A, B)"}}), IsEmpty());
  EXPECT_THAT(MirroredTests({{"tests/kernels/b_test.cc", "TEST(A, B)"}, {"kernels/a.h", ""}}),
              SizeIs(1));
}

TEST(FaultTableTest, WantsEachRowOnceWithTestsThatExist) {
  const File test = {"tests/a/b_test.cc", "TEST_F(Suite, Name) {}\n"};
  std::string rows;
  for (int i = 1; i <= 110; ++i)
    rows += "| " + std::to_string(i) + " | `Suite.Name` | IA | 5 s |\n";
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = rows;
    const size_t at = text.find(from);
    if (at != std::string::npos) text.replace(at, from.size(), to);
    return FaultTable({test, {"tests/README.md", text}});
  };
  EXPECT_THAT(with("", ""), IsEmpty());
  EXPECT_THAT(with("| 7 | `Suite.Name`", "| 7 | `tests/a/b_test.cc`"), IsEmpty());
  EXPECT_THAT(with("| 7 | `Suite.Name`", "| 7 | `Suite.Other`"), ElementsAre(HasSubstr("Other")));
  EXPECT_THAT(with("| 7 | `Suite.Name` | IA | 5 s |\n", ""), ElementsAre(HasSubstr("row 7 is")));
  EXPECT_THAT(with("| 7 |", "| 8 |"), SizeIs(2));
  EXPECT_THAT(with("| IA | 5 s |", "|  | 5 s |"), SizeIs(1));
  EXPECT_THAT(with("| 102 | `Suite.Name` | IA | 5 s |\n", ""), IsEmpty());
}

TEST(OneDefinitionTest, WantsNamesThatNoOtherHeaderDefines) {
  const auto in = [](const std::string& path, const std::string& name) {
    return File{path, "namespace lorica {\nstruct " + name + " {\n};\n}\n"};
  };
  EXPECT_THAT(OneDefinition({in("server/a.h", "A"), in("adapters/b.h", "B")}), IsEmpty());
  EXPECT_THAT(OneDefinition({in("server/a.h", "A"), in("adapters/b.h", "A")}), SizeIs(1));
  EXPECT_THAT(OneDefinition({in("server/a.h", "A"), in("adapters/b.h", "A : Base")}), SizeIs(1));
  const File other = {"adapters/b.h", "namespace lorica::cuda {\nstruct A {\n};\n}\n"};
  EXPECT_THAT(OneDefinition({in("server/a.h", "A"), other}), IsEmpty());
  const File ahead = {"adapters/b.h", "namespace lorica {\nstruct A;\n  struct A {\n  };\n}\n"};
  EXPECT_THAT(OneDefinition({in("server/a.h", "A"), ahead}), IsEmpty()) << "declared, or inside";
}

TEST(StrictScriptsTest, WantsThemToStopAtErrors) {
  EXPECT_THAT(StrictScripts({{"a.sh", "#!/usr/bin/env bash\nset -euo pipefail\n"}}), IsEmpty());
  EXPECT_THAT(StrictScripts({{"a.sh", "#!/usr/bin/env bash\nset -e\n"}}), SizeIs(1));
  EXPECT_THAT(StrictScripts({{"a.sh", "#!/bin/sh\nset -eu\n"}}), IsEmpty());
  EXPECT_THAT(StrictScripts({{".ci/run", "#!/usr/bin/env bash\necho\n"}}), SizeIs(1));
}

}  // namespace
}  // namespace lorica::tidy
