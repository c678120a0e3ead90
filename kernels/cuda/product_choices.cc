#include "kernels/cuda/product_choices.h"

#include <cstdio>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lorica::cuda {
namespace {

constexpr char kTitle[] = "lorica products 1, ";
constexpr int64_t kChoicesMax = 10'000;  // of a file

}  // namespace

ProductChoices::ProductChoices(std::string path, std::string maker)
    : path_(std::move(path)), maker_(std::move(maker)) {
  if (!path_.empty()) Load();
}

const ProductChoices::Algorithm* ProductChoices::Find(const Shape& shape) const {
  const auto at = choices_.find(shape);
  return at == choices_.end() ? nullptr : &at->second;
}

void ProductChoices::Load() {
  std::ifstream file(path_);
  std::string line;
  if (!std::getline(file, line) || line != kTitle + maker_) return;
  while (size() < kChoicesMax && std::getline(file, line)) {
    std::istringstream numbers(line);
    int64_t rows = 0, out = 0, in = 0;
    Algorithm algorithm;
    numbers >> rows >> out >> in >> std::hex;
    for (uint64_t& word : algorithm) numbers >> word;
    std::string more;
    if (numbers && !(numbers >> more)) choices_[{rows, out, in}] = algorithm;
  }
}

absl::Status ProductChoices::Save() const {
  if (path_.empty()) return absl::OkStatus();
  std::string text = absl::StrCat(kTitle, maker_, "\n");
  for (const auto& [shape, algorithm] : choices_) {
    const auto& [rows, out, in] = shape;
    absl::StrAppend(&text, rows, " ", out, " ", in);
    for (const uint64_t word : algorithm) absl::StrAppend(&text, " ", absl::Hex(word));
    absl::StrAppend(&text, "\n");
  }
  const std::string part = path_ + ".part";
  std::ofstream file(part, std::ios::trunc);
  file << text;
  file.close();
  if (!file || std::rename(part.c_str(), path_.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot write ", path_));
  }
  return absl::OkStatus();
}

}  // namespace lorica::cuda
