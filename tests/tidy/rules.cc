#include "tests/tidy/rules.h"

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace lorica::tidy {
namespace {

std::string Extension(const std::string& path) {
  const size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(dot);
}

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

int Characters(const std::string& line) {
  return static_cast<int>(
      std::count_if(line.begin(), line.end(), [](unsigned char c) { return (c & 0xC0) != 0x80; }));
}

// Calls visit(match) for each match of `pattern` in `text`.
template <typename Visitor>
void ForEachMatch(const std::string& text, const std::regex& pattern, Visitor visit) {
  for (std::sregex_iterator it(text.begin(), text.end(), pattern), end; it != end; ++it) {
    visit(*it);
  }
}

// Folders of the include table, most particular first.
const std::vector<std::pair<std::string, std::vector<std::string>>>& IncludeTable() {
  static const auto* const table =
      new std::vector<std::pair<std::string, std::vector<std::string>>>{
          {"kernels/cuda/device", {}},
          {"kernels", {"kernels/cuda/device"}},
          {"adapters/hub", {}},
          {"adapters", {"kernels", "adapters/hub"}},
          {"server/text", {}},
          {"server/models", {"kernels", "adapters/hub"}},
          {"server/engine", {"kernels", "adapters", "server/models"}},
          {"server/grammar", {"kernels", "adapters", "server/engine"}},
          {"server/api", {"proto", "adapters", "server/text", "server/engine", "server/grammar"}},
          {"server/http",
           {"adapters", "server/text", "server/engine", "server/grammar", "server/api"}},
          {"server",
           {"proto", "kernels", "adapters", "server/text", "server/models", "server/engine",
            "server/grammar", "server/api", "server/http"}},
          {"client", {"proto"}},
          {"proto", {}},
      };
  return *table;
}

// The row of the table that `path` belongs to; empty for foreign paths.
std::string Zone(const std::string& path) {
  if (absl::StartsWith(path, "lorica/v1/") || absl::StartsWith(path, "google/rpc/")) {
    return "proto";
  }
  if (absl::StartsWith(path, "tests/")) return "tests";
  for (const auto& [folder, allowed] : IncludeTable()) {
    if (absl::StartsWith(path, folder + "/")) return folder;
  }
  return "";
}

bool MayInclude(const std::string& from, const std::string& to) {
  if (from == to || from == "tests" || to.empty()) return true;
  for (const auto& [folder, allowed] : IncludeTable()) {
    if (folder != from) continue;
    return std::any_of(allowed.begin(), allowed.end(), [&](const std::string& zone) {
      return to == zone || (zone == "adapters" && to == "adapters/hub");
    });
  }
  return false;
}

std::set<std::string> Paths(const Files& files) {
  std::set<std::string> paths;
  for (const File& file : files) paths.insert(file.path);
  return paths;
}

struct CommentCount {
  int comments = 0;
  int code = 0;
  double share() const { return code == 0 ? 1.0 : static_cast<double>(comments) / code; }
};

CommentCount CountComments(const File& file) {
  CommentCount count;
  for (const std::string& line : Lines(file.text)) {
    const std::string stripped(absl::StripAsciiWhitespace(line));
    count.comments += absl::StrContains(stripped, "//");
    count.code += !stripped.empty() && !absl::StartsWith(stripped, "//");
  }
  return count;
}

struct Opening {
  int lines = 0;
  int words = 0;
};

// The comment that the file begins with.
Opening OpeningOf(const File& file) {
  Opening opening;
  for (const std::string& line : Lines(file.text)) {
    if (!absl::StartsWith(line, "//")) break;
    ++opening.lines;
    const std::vector<std::string> words = absl::StrSplit(line.substr(2), ' ', absl::SkipEmpty());
    opening.words += static_cast<int>(words.size());
  }
  return opening;
}

// Calls visit(file, target, quoted) for each include of each source.
template <typename Visitor>
void ForEachInclude(const Files& files, Visitor visit) {
  static const std::regex kInclude(R"re((?:^|\n)[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">])re");
  for (const File& file : files) {
    if (!IsSource(file)) continue;
    ForEachMatch(file.text, kInclude,
                 [&](const std::smatch& match) { visit(file, match[2].str(), match[1] == "\""); });
  }
}

// Headers that a folder offers to other folders of the include table.
std::set<std::string> PublicHeaders(const Files& files) {
  std::set<std::string> headers;
  ForEachInclude(files, [&](const File& file, const std::string& target, bool) {
    const std::string from = Zone(file.path);
    if (from != "tests" && from != Zone(target)) headers.insert(target);
  });
  return headers;
}

bool IsTidyItself(const File& file) { return absl::StartsWith(file.path, "tests/tidy/"); }

// Markdown without fenced blocks, whose text follows other rules.
std::string WithoutFences(const File& file) {
  std::string prose;
  bool fenced = false;
  for (const std::string& line : Lines(file.text)) {
    if (absl::StartsWith(absl::StripLeadingAsciiWhitespace(line), "```")) {
      fenced = !fenced;
    } else if (!fenced) {
      absl::StrAppend(&prose, line, "\n");
    }
  }
  return prose;
}

bool IsProgramText(const File& file) {
  const std::string extension = Extension(file.path);
  return IsSource(file) || IsScript(file) || extension == ".proto" || extension == ".py" ||
         BaseName(file.path) == "CMakeLists.txt";
}

bool IsForReaders(const File& file) {
  return (IsProgramText(file) || IsMarkdown(file)) && !IsTidyItself(file);
}

bool IsProduct(const File& file) {
  return IsSource(file) && !absl::StartsWith(file.path, "tests/");
}

// Complains of each match of `pattern` where it is looked for.
Complaints Refused(const Files& files, bool (*looked_at)(const File&), const std::regex& pattern,
                   const char* why) {
  Complaints complaints;
  for (const File& file : files) {
    if (!looked_at(file)) continue;
    ForEachMatch(file.text, pattern, [&](const std::smatch& match) {
      complaints.push_back(absl::StrCat(file.path, ": \"", match.str(), "\" ", why));
    });
  }
  return complaints;
}

// "a/b/../c" and "./a" as plain paths.
std::string Normalise(const std::string& path) {
  const std::vector<std::string> written = absl::StrSplit(path, '/', absl::SkipEmpty());
  std::vector<std::string> parts;
  for (const std::string& part : written) {
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
    } else if (part != ".") {
      parts.push_back(part);
    }
  }
  return absl::StrJoin(parts, "/");
}

bool ExistsAsFileOrFolder(const std::set<std::string>& paths, const std::string& path) {
  if (path.empty() || paths.contains(path)) return true;
  const auto next = paths.lower_bound(path + "/");
  return next != paths.end() && absl::StartsWith(*next, path + "/");
}

// A path written as `code`, from the root: known folder first, plain characters only.
bool LooksLikeOurPath(const std::string& code) {
  static const std::regex kPath(
      R"((kernels|adapters|server|client|proto|tests|deploy)/[A-Za-z0-9_./-]+)");
  return std::regex_match(code, kPath);
}

// Whether a/b_c_d mirrors a/b_c_d, a/b_c or a/b, header or source.
bool HasMirror(std::string stem, const std::set<std::string>& paths) {
  for (;;) {
    if (paths.contains(stem + ".h") || paths.contains(stem + ".cc")) return true;
    const size_t underscore = stem.rfind('_');
    if (underscore == std::string::npos || underscore < stem.rfind('/') + 1) return false;
    stem.resize(underscore);
  }
}

void CheckLinks(const File& file, const std::set<std::string>& paths, Complaints* complaints) {
  const std::string prose = WithoutFences(file);
  const std::string folder(FolderOf(file.path));
  static const std::regex kLink(R"(\]\(([^)#\s]+)[^)]*\))");
  ForEachMatch(prose, kLink, [&](const std::smatch& match) {
    const std::string target = match[1];
    if (absl::StrContains(target, "://")) return;
    if (!ExistsAsFileOrFolder(paths, Normalise(folder + "/" + target))) {
      complaints->push_back(absl::StrCat(file.path, ": the link to ", target, " leads nowhere"));
    }
  });
  static const std::regex kCode("`([^`\n]+)`");
  ForEachMatch(prose, kCode, [&](const std::smatch& match) {
    const std::string code = match[1];
    if (LooksLikeOurPath(code) && !ExistsAsFileOrFolder(paths, Normalise(code))) {
      complaints->push_back(absl::StrCat(file.path, ": `", code, "` does not exist"));
    }
  });
}

}  // namespace

bool IsSource(const File& file) {
  const std::string extension = Extension(file.path);
  return extension == ".h" || extension == ".cc" || extension == ".cu" || extension == ".cuh";
}

bool IsHeader(const File& file) {
  const std::string extension = Extension(file.path);
  return (extension == ".h" || extension == ".cuh") && !absl::StartsWith(file.path, "tests/");
}

bool IsScript(const File& file) {
  return Extension(file.path) == ".sh" || absl::StartsWith(file.text, "#!/usr/bin/env bash") ||
         absl::StartsWith(file.text, "#!/bin/bash") || absl::StartsWith(file.text, "#!/bin/sh");
}

bool IsMarkdown(const File& file) { return Extension(file.path) == ".md"; }

Complaints IncludeDirection(const Files& files) {
  const std::set<std::string> paths = Paths(files);
  Complaints complaints;
  ForEachInclude(files, [&](const File& file, const std::string& target, bool quoted) {
    const std::string from = Zone(file.path);
    const std::string beside = FolderOf(file.path) + "/" + target;
    if (absl::StartsWith(target, ".") || (quoted && paths.contains(beside))) {
      complaints.push_back(
          absl::StrCat(file.path, " includes \"", target, "\": write it from the root"));
    } else if (!MayInclude(from, Zone(target))) {
      complaints.push_back(absl::StrCat(file.path, " may not include \"", target, "\": ", from,
                                        " does not know ", Zone(target)));
    }
  });
  return complaints;
}

Complaints CudaStaysInKernels(const Files& files) {
  static const std::regex kCuda(R"(#\s*include\s*[<"](cuda|cublas|cudnn|curand|nccl|nvtx|nvrtc))"
                                R"(|__CUDACC__|__CUDA_ARCH__|__NVCC__|#\s*if.*LORICA_CUDA)");
  const auto looked_at = [](const File& file) {
    return IsProduct(file) && !absl::StartsWith(file.path, "kernels/");
  };
  return Refused(files, looked_at, kCuda, "belongs in kernels/cuda, behind Backend");
}

Complaints WaitsSayHowLong(const Files& files) {
  static const std::regex kUntil(R"(\w+WithDeadline\(|\b(wait|try_lock)_until\(|\btimed_mutex\b)"
                                 R"(|\b(pthread|sem)_\w*timed\w+\()");
  return Refused(files, IsProduct, kUntil,
                 "waits for a time of the wall clock, which may be set: say how long to wait");
}

Complaints HeaderProse(const Files& files) {
  const std::set<std::string> public_headers = PublicHeaders(files);
  Complaints complaints;
  std::map<std::string, CommentCount> by_folder;
  for (const File& file : files) {
    if (Extension(file.path) != ".h" && Extension(file.path) != ".cuh") continue;
    // Highway includes its -inl.h files once for each instruction set.
    if (!absl::StrContains(file.text, "\n#pragma once\n") &&
        !absl::StrContains(file.text, "HWY_TARGET_TOGGLE")) {
      complaints.push_back(absl::StrCat(file.path, ": no #pragma once"));
    }
    if (!IsHeader(file)) continue;
    const Opening opening = OpeningOf(file);
    if (opening.words < kPrivateWordsMin) {
      complaints.push_back(file.path + ": open it with a // comment that says what it is");
    }
    if (!public_headers.contains(file.path)) continue;
    if (opening.lines < kOpeningLinesMin || opening.words < kOpeningWordsMin) {
      complaints.push_back(absl::StrCat(
          file.path, ": other folders include it, so open it with a // comment of at least ",
          kOpeningLinesMin, " lines and ", kOpeningWordsMin,
          " words: what it is, who may share it, who owns what"));
    }
    const CommentCount count = CountComments(file);
    if (count.share() < kHeaderCommentShareMin) {
      complaints.push_back(absl::StrCat(file.path, ": only ", count.share(),
                                        " comment lines per code line; say more about its types"));
    }
    CommentCount& folder = by_folder[file.path.substr(0, file.path.find('/'))];
    folder.comments += count.comments;
    folder.code += count.code;
  }
  for (const auto& [folder, count] : by_folder) {
    if (count.share() >= kFolderCommentShareMin) continue;
    complaints.push_back(absl::StrCat("public headers of ", folder, "/ have only ", count.share(),
                                      " comment lines per code line"));
  }
  return complaints;
}

Complaints Layout(const Files& files) {
  Complaints complaints;
  for (const File& file : files) {
    if (!IsProgramText(file)) continue;
    const std::vector<std::string> lines = Lines(file.text);
    if (lines.size() > kFileLinesMax) {
      complaints.push_back(
          absl::StrCat(file.path, ": ", lines.size(), " lines; split it at ", kFileLinesMax));
    }
    if (!file.text.empty() && file.text.back() != '\n') {
      complaints.push_back(absl::StrCat(file.path, ": no end of line at the end"));
    }
    for (size_t i = 0; i < lines.size(); ++i) {
      const std::string where = absl::StrCat(file.path, ":", i + 1, ": ");
      if (Characters(lines[i]) > kLineWidthMax) {
        complaints.push_back(absl::StrCat(where, Characters(lines[i]), " characters wide"));
      }
      if (absl::StrContains(lines[i], '\t')) complaints.push_back(where + "a tab");
      if (absl::EndsWith(lines[i], " ") || absl::EndsWith(lines[i], "\r")) {
        complaints.push_back(where + "blanks at the end");
      }
    }
  }
  return complaints;
}

Complaints LeftoverMarks(const Files& files) {
  static const std::regex kMark(R"(\b(TODO|FIXME|XXX|HACK)\b)");
  return Refused(files, IsForReaders, kMark, "is left over");
}

Complaints DeadFiles(const Files& files) {
  std::map<std::string, std::string> cmake_by_folder;
  std::string all_text;
  for (const File& file : files) {
    if (BaseName(file.path) == "CMakeLists.txt") {
      cmake_by_folder[std::string(FolderOf(file.path))] = file.text;
    }
    absl::StrAppend(&all_text, file.text, "\n");
  }
  const auto is_built = [&](const File& file) {
    for (std::string folder(FolderOf(file.path));; folder = std::string(FolderOf(folder))) {
      const auto cmake = cmake_by_folder.find(folder);
      const std::string name = folder.empty() ? file.path : file.path.substr(folder.size() + 1);
      // Tests may be registered by their stems, in a loop.
      const bool stem = absl::EndsWith(name, "_test.cc") && FolderOf(name).empty();
      const std::string wanted = stem ? name.substr(0, name.size() - 3) : name;
      if (cmake != cmake_by_folder.end() && absl::StrContains(cmake->second, wanted)) return true;
      if (folder.empty()) return false;
    }
  };
  Complaints complaints;
  for (const File& file : files) {
    const std::string extension = Extension(file.path);
    if ((extension == ".cc" || extension == ".cu") && !is_built(file)) {
      complaints.push_back(file.path + ": no CMakeLists.txt builds it");
    }
    if ((extension == ".h" || extension == ".cuh") &&
        !absl::StrContains(all_text, absl::StrCat("include \"", file.path, "\""))) {
      complaints.push_back(file.path + ": nobody includes it");
    }
    if ((extension == ".py" || extension == ".sh") &&
        !absl::StrContains(all_text, BaseName(file.path))) {
      complaints.push_back(file.path + ": nothing in the repository mentions it");
    }
    if (IsSource(file) && Lines(file.text).size() < 3) {
      complaints.push_back(file.path + ": an empty shell");
    }
  }
  return complaints;
}

Complaints ArchitectureNames(const Files& files) {
  std::string declarations;
  for (const File& file : files) {
    if (IsHeader(file) || Extension(file.path) == ".proto") declarations += file.text;
  }
  static const std::regex kCode("`([^`\n]+)`");
  static const std::regex kName(R"(([A-Z]\w*[a-z]\w*)(?:::(\w+))?(?:\(.*\))?)");
  const auto is_declared = [&](const std::string& name) {
    return std::regex_search(
        declarations, std::regex("\\b(class|struct|enum|enum class|using|service|rpc|message)\\s+" +
                                 name + "\\b|\\b" + name + "\\("));
  };
  Complaints complaints;
  for (const File& file : files) {
    if (file.path != "ARCHITECTURE.md") continue;
    ForEachMatch(WithoutFences(file), kCode, [&](const std::smatch& match) {
      const std::string code = match[1];
      std::smatch name;
      if (!std::regex_match(code, name, kName)) return;
      for (const std::string& part : {name[1].str(), name[2].str()}) {
        if (!part.empty() && !is_declared(part)) {
          complaints.push_back(
              absl::StrCat("ARCHITECTURE.md: `", code, "`: no header declares ", part));
        }
      }
    });
  }
  return complaints;
}

Complaints MarkdownShape(const Files& files) {
  const std::set<std::string> paths = Paths(files);
  Complaints complaints;
  for (const File& file : files) {
    if (!IsMarkdown(file)) continue;
    int titles = 0;
    for (const std::string& line : Lines(WithoutFences(file))) {
      titles += absl::StartsWith(line, "# ");
      if (Characters(line) <= kMarkdownWidthMax || absl::StartsWith(line, "|")) continue;
      complaints.push_back(absl::StrCat(file.path, ": ", Characters(line), " wide: ", line));
    }
    if (titles != 1 || !absl::StartsWith(file.text, "# ")) {
      complaints.push_back(
          absl::StrCat(file.path, ": ", titles, " titles; one \"# \" line, the first, is right"));
    }
    CheckLinks(file, paths, &complaints);
  }
  return complaints;
}

Complaints ForeignMentions(const Files& files) {
  static const std::regex kForeign(
      R"((/work/|/root/)\w+|pypi\.org|pythonhosted\.org|\b[Ii]ssue #?\d+|\(#\d+\))");
  return Refused(files, IsForReaders, kForeign, "says nothing to a reader of this repository");
}

Complaints MirroredTests(const Files& files) {
  static const std::set<std::string> kOtherKinds = {"bench", "clients", "fakes",      "fuzz",
                                                    "sim",   "tidy",    "integration"};
  // Both backends side by side, in one program.
  static const std::set<std::string> kNoFileOfThatName = {"kernels/cuda/verbs"};
  const std::set<std::string> paths = Paths(files);
  Complaints complaints;
  for (const File& file : files) {
    static const std::regex kTest(R"(tests/((\w+)/.*)_test\.cc)");
    std::smatch match;
    if (!std::regex_match(file.path, match, kTest) || kOtherKinds.contains(match[2])) continue;
    const std::string stem = match[1];
    if (kNoFileOfThatName.contains(stem) || !absl::StrContains(file.text, "TEST")) continue;
    // One test body serves a verb of every backend.
    const bool is_verb =
        FolderOf(stem) == "kernels" && HasMirror("kernels/cpu/" + BaseName(stem), paths);
    if (!is_verb && !HasMirror(stem, paths)) {
      complaints.push_back(absl::StrCat(file.path, ": there is no ", stem,
                                        ".{h,cc} to test, nor a file whose name begins it"));
    }
  }
  return complaints;
}

namespace {

// "Suite.Name" of each test in the tree.
std::set<std::string> TestNames(const Files& files) {
  static const std::regex kTest(R"(\bTEST(?:_F|_P)?\((\w+),\s*(\w+)\))");
  std::set<std::string> names;
  for (const File& file : files) {
    if (!absl::StartsWith(file.path, "tests/") || !IsSource(file) || IsTidyItself(file)) continue;
    ForEachMatch(file.text, kTest, [&](const std::smatch& match) {
      names.insert(absl::StrCat(match[1].str(), ".", match[2].str()));
    });
  }
  return names;
}

// Numbers of faults that must be tested. One is of servers with several GPUs.
bool MustBeTested(int number) { return number <= 110 && number != 102; }

}  // namespace

Complaints FaultTable(const Files& files) {
  static const std::regex kRow(R"(\| (\d+) \|([^|]*)\|([^|]*)\|([^|]*)\|)");
  static const std::regex kCode("`([^`]+)`");
  constexpr int kLast = 112;
  Complaints complaints;
  const std::set<std::string> names = TestNames(files);
  const std::set<std::string> paths = Paths(files);
  for (const File& file : files) {
    if (file.path != "tests/README.md") continue;
    std::map<int, int> lines;
    for (const std::string& line : Lines(file.text)) {
      std::smatch row;
      if (!std::regex_match(line, row, kRow)) continue;
      ++lines[std::stoi(row[1])];
      int tests = 0;
      const std::string cell = row[2];
      ForEachMatch(cell, kCode, [&](const std::smatch& match) {
        ++tests;
        if (names.contains(match[1]) || paths.contains(match[1])) return;
        complaints.push_back(absl::StrCat(file.path, ": row ", row[1].str(), " names ",
                                          match[1].str(), ", which does not exist"));
      });
      const bool empty = absl::StripAsciiWhitespace(row[3].str()).empty() ||
                         absl::StripAsciiWhitespace(row[4].str()).empty();
      if (tests == 0 || empty) {
        complaints.push_back(absl::StrCat(file.path, ": row ", row[1].str(),
                                          " lacks a test, a code or a time bound"));
      }
    }
    for (int number = 1; number <= kLast; ++number) {
      const int count = lines.contains(number) ? lines[number] : 0;
      if (count > 1 || (count == 0 && MustBeTested(number))) {
        complaints.push_back(
            absl::StrCat(file.path, ": row ", number, " is there ", count, " times"));
      }
    }
  }
  return complaints;
}

Complaints OneDefinition(const Files& files) {
  static const std::regex kNamespace(R"(namespace ([\w:]+) \{.*)");
  static const std::regex kType(
      R"((?:struct|class|enum class) (?:\w+\([^)]*\) )?(\w+)(?: final)?(?: : [^;]*)? \{.*)");
  Complaints complaints;
  std::map<std::string, std::string> places;
  for (const File& file : files) {
    if (!IsHeader(file)) continue;
    std::string scope;
    for (const std::string& line : Lines(file.text)) {
      std::smatch match;
      if (std::regex_match(line, match, kNamespace)) scope = match[1];
      if (!std::regex_match(line, match, kType)) continue;
      const std::string name = absl::StrCat(scope, "::", match[1].str());
      const auto [place, fresh] = places.emplace(name, file.path);
      if (!fresh) {
        complaints.push_back(
            absl::StrCat(file.path, ": ", place->second, " defines ", name, " too"));
      }
    }
  }
  return complaints;
}

Complaints StrictScripts(const Files& files) {
  Complaints complaints;
  for (const File& file : files) {
    if (!IsScript(file)) continue;
    const bool posix = absl::StartsWith(file.text, "#!/bin/sh");
    const std::string wanted = posix ? "set -eu" : "set -euo pipefail";
    if (!absl::StrContains(file.text, "\n" + wanted + "\n")) {
      complaints.push_back(absl::StrCat(file.path, ": no \"", wanted, "\""));
    }
  }
  return complaints;
}

}  // namespace lorica::tidy
