// What the commands draw with: colours, aligned tables, a progress bar, units.
//
// Colours and bars appear only on a terminal; NO_COLOR (any value) switches colours off.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace lorica {

enum class Ink { kBold, kDim, kRed, kGreen, kYellow, kCyan };

bool IsTerminal(FILE* stream);

// `text` in that ink when `stream` is a terminal that wants colours, else as it is.
std::string Paint(Ink ink, const std::string& text, FILE* stream);

// Control characters other than newline and tab become U+FFFD, so that text from a model
// or a server cannot move the cursor or retitle the window.
std::string Printable(absl::string_view text);

std::string HumanBytes(int64_t bytes);      // "1.5 MiB"
std::string HumanCount(int64_t count);      // "12,345"
std::string HumanDuration(double seconds);  // "850 ms", "12.3 s", "4 min 10 s"
std::string Fixed(double value, int digits);

// Rows of cells, columns aligned by display width. Not thread-safe.
class Table {
 public:
  // A header that starts with '>' makes a right-aligned column: {"adapter", ">rank"}.
  explicit Table(const std::vector<std::string>& headers);
  // REQUIRES: as many cells as headers.
  void AddRow(std::vector<std::string> cells);
  std::string ToString(FILE* stream) const;  // header in bold on a terminal
  size_t row_count() const { return rows_.size(); }

 private:
  std::vector<std::string> headers_;
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;
};

// One line on stderr that redraws itself at most ten times a second; silent when stderr
// is no terminal, or not `wanted`. Thread-safe.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label, bool wanted = true);
  ~ProgressBar();  // clears the line

  // `fraction` below zero: no bar, only the note (the total is not known).
  void Update(double fraction, const std::string& note);
  // Takes the line away so that something else can be printed on it.
  void Clear();

 private:
  const std::string label_;
  const bool shown_;
  absl::Mutex mutex_;
  absl::Time drawn_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace lorica
