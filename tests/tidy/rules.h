// The house rules, as functions over the text of files.
//
// Each rule takes files as values and returns complaints, one sentence each, empty when
// all is well. Nothing here reads a disk, so that every rule can be shown to fail on a
// made-up file. Stateless and thread-safe.
#pragma once

#include <string>
#include <vector>

namespace lorica::tidy {

inline constexpr int kLineWidthMax = 100;  // characters, not bytes
inline constexpr int kMarkdownWidthMax = 130;
inline constexpr int kFileLinesMax = 600;
inline constexpr int kOpeningLinesMin = 2;  // of the comment that opens a header
inline constexpr int kOpeningWordsMin = 12;
inline constexpr int kPrivateWordsMin = 4;  // of the comment that opens any other header
inline constexpr double kHeaderCommentShareMin = 0.15;  // comment lines per code line
inline constexpr double kFolderCommentShareMin = 0.25;  // over the public headers of a folder

struct File {
  std::string path;  // from the repository root, with slashes
  std::string text;
};
using Files = std::vector<File>;
using Complaints = std::vector<std::string>;

bool IsSource(const File& file);  // C++, CUDA
bool IsHeader(const File& file);  // ... of the product: not beneath tests/
bool IsScript(const File& file);  // bash, by name or by its first line
bool IsMarkdown(const File& file);

// Which folder may include which: kernels know nothing of adapters, adapters nothing of
// the server, and so on. Also refuses includes that do not start at the root.
Complaints IncludeDirection(const Files& files);
// No file of the product above kernels/ includes a CUDA header or tests a CUDA macro.
Complaints CudaStaysInKernels(const Files& files);
// The product waits for so long, never until a time of the wall clock, which may be set meanwhile.
Complaints WaitsSayHowLong(const Files& files);
// Every header has `#pragma once` and says at the top what it is. A public one, which another
// folder of the include table includes, opens with prose and has enough comments.
Complaints HeaderProse(const Files& files);
// Width, tabs, trailing blanks, length, an end of line at the end.
Complaints Layout(const Files& files);
// Notes to self have no place in the tree.
Complaints LeftoverMarks(const Files& files);
// Every source is built by some CMakeLists.txt, every header included, every script named.
Complaints DeadFiles(const Files& files);
// Names of types and functions in `code` in ARCHITECTURE.md exist in headers or .proto files.
Complaints ArchitectureNames(const Files& files);
// One title, first; links and paths in `code` lead to files that exist; lines are no wider than
// kMarkdownWidthMax, but for rows of tables, which cannot be broken, and what a program printed.
Complaints MarkdownShape(const Files& files);
// The repository speaks of itself alone: no machine's paths, package hosts, issue numbers.
Complaints ForeignMentions(const Files& files);
// tests/a/b_test.cc and tests/a/b_more_test.cc test a/b.h or a/b.cc, apart from folders of
// another kind.
Complaints MirroredTests(const Files& files);
// The table of bad inputs and faults in tests/README.md has a line for each number that must be
// tested, with code and time bound, and each test it names exists.
Complaints FaultTable(const Files& files);
// No two headers of the product define a type of one name in one namespace: a program that holds
// both takes one's constructor for the other's, and nobody says so.
Complaints OneDefinition(const Files& files);
// Scripts stop at the first error.
Complaints StrictScripts(const Files& files);

}  // namespace lorica::tidy
