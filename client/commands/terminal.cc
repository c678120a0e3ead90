#include "client/commands/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/steady_time.h"

namespace lorica {
namespace {

constexpr int kBarCells = 24;
constexpr absl::Duration kRedraw = absl::Milliseconds(100);
constexpr char kColumnGap[] = "  ";
constexpr char kReplacement[] = "\xEF\xBF\xBD";

const char* Code(Ink ink) {
  switch (ink) {
    case Ink::kBold:
      return "1";
    case Ink::kDim:
      return "2";
    case Ink::kRed:
      return "31";
    case Ink::kGreen:
      return "32";
    case Ink::kYellow:
      return "33";
    case Ink::kCyan:
      return "36";
  }
  return "0";
}

// Code points: near enough to columns for what we print.
size_t Width(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

std::string Padded(const std::string& cell, size_t width, bool right) {
  const std::string space(width - std::min(width, Width(cell)), ' ');
  return right ? space + cell : cell + space;
}

std::string WithoutTrailingBlanks(std::string line) {
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

}  // namespace

bool IsTerminal(FILE* stream) { return isatty(fileno(stream)) == 1; }

std::string Paint(Ink ink, const std::string& text, FILE* stream) {
  static const bool wanted = std::getenv("NO_COLOR") == nullptr;
  if (!wanted || !IsTerminal(stream)) return text;
  return absl::StrCat("\x1b[", Code(ink), "m", text, "\x1b[0m");
}

std::string Printable(absl::string_view text) {
  std::string printable;
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char c = text[i];
    const bool control = (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F;
    // U+0080 to U+009F are controls too.
    const bool control_pair =
        c == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (control || control_pair) {
      printable += kReplacement;
      i += control_pair ? 1 : 0;
    } else {
      printable += text[i];
    }
  }
  return printable;
}

std::string HumanBytes(int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = bytes;
  int unit = 0;
  while (std::abs(value) >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string HumanCount(int64_t count) {
  std::string digits = absl::StrCat(count < 0 ? -count : count);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, 1, ',');
  return count < 0 ? absl::StrCat("-", digits) : digits;
}

std::string HumanDuration(double seconds) {
  if (seconds < 1) return absl::StrFormat("%.0f ms", seconds * 1000);
  if (seconds < 60) return absl::StrFormat("%.1f s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return absl::StrFormat("%d min %d s", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%d h %d min", whole / 3600, whole / 60 % 60);
  return absl::StrFormat("%d d %d h", whole / 86400, whole / 3600 % 24);
}

std::string Fixed(double value, int digits) { return absl::StrFormat("%.*f", digits, value); }

Table::Table(const std::vector<std::string>& headers) {
  for (const std::string& header : headers) {
    const bool right = absl::StartsWith(header, ">");
    right_.push_back(right);
    headers_.push_back(right ? header.substr(1) : header);
  }
}

void Table::AddRow(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

std::string Table::ToString(FILE* stream) const {
  std::vector<size_t> widths;
  for (size_t i = 0; i < headers_.size(); ++i) {
    size_t width = Width(headers_[i]);
    for (const auto& row : rows_) width = std::max(width, Width(row[i]));
    widths.push_back(width);
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text;
    for (size_t i = 0; i < cells.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "" : kColumnGap, Padded(cells[i], widths[i], right_[i]));
    }
    return WithoutTrailingBlanks(text);
  };
  std::string text = absl::StrCat(Paint(Ink::kBold, line(headers_), stream), "\n");
  for (const auto& row : rows_) absl::StrAppend(&text, line(row), "\n");
  return text;
}

ProgressBar::ProgressBar(std::string label, bool wanted)
    : label_(std::move(label)), shown_(wanted && IsTerminal(stderr)) {}

ProgressBar::~ProgressBar() { Clear(); }

void ProgressBar::Update(double fraction, const std::string& note) {
  if (!shown_) return;
  absl::MutexLock lock(&mutex_);
  const absl::Time now = SteadyTime();
  if (now - drawn_ < kRedraw) return;
  drawn_ = now;
  std::string bar;
  if (fraction >= 0) {
    const int full = std::clamp(static_cast<int>(fraction * kBarCells), 0, kBarCells);
    for (int i = 0; i < kBarCells; ++i) bar += i < full ? "█" : "░";
    absl::StrAppend(&bar, absl::StrFormat(" %3.0f %%  ", std::min(1.0, fraction) * 100));
  }
  std::fprintf(stderr, "\r\x1b[K%s  %s%s", label_.c_str(), bar.c_str(), note.c_str());
  std::fflush(stderr);
}

void ProgressBar::Clear() {
  if (!shown_) return;
  absl::MutexLock lock(&mutex_);
  if (drawn_ == absl::InfinitePast()) return;
  drawn_ = absl::InfinitePast();
  std::fprintf(stderr, "\r\x1b[K");
  std::fflush(stderr);
}

}  // namespace lorica
