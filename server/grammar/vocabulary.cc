#include "server/grammar/vocabulary.h"

#include <cstring>

namespace lorica {
namespace {

void Append(uint32_t number, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

// Takes numbers and texts off the front; false once there is too little.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  bool Number(uint32_t* number) {
    if (bytes_.size() < sizeof(*number)) return false;
    std::memcpy(number, bytes_.data(), sizeof(*number));
    bytes_.remove_prefix(sizeof(*number));
    return true;
  }
  bool Text(std::string* text) {
    uint32_t size = 0;
    if (!Number(&size) || bytes_.size() < size) return false;
    *text = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return true;
  }
  bool empty() const { return bytes_.empty(); }

 private:
  std::string_view bytes_;
};

bool Read(Reader reader, GrammarVocabulary* vocabulary) {
  uint32_t count = 0;
  if (!reader.Number(&count)) return false;
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t id = 0;
    if (!reader.Number(&id)) return false;
    vocabulary->end_tokens.push_back(static_cast<int32_t>(id));
  }
  if (!reader.Number(&count)) return false;
  for (uint32_t i = 0; i < count; ++i) {
    if (!reader.Text(&vocabulary->tokens.emplace_back())) return false;
  }
  return reader.empty();
}

}  // namespace

std::string ToBytes(const GrammarVocabulary& vocabulary) {
  std::string bytes;
  Append(static_cast<uint32_t>(vocabulary.end_tokens.size()), bytes);
  for (const int32_t id : vocabulary.end_tokens) Append(static_cast<uint32_t>(id), bytes);
  Append(static_cast<uint32_t>(vocabulary.tokens.size()), bytes);
  for (const std::string& token : vocabulary.tokens) {
    Append(static_cast<uint32_t>(token.size()), bytes);
    bytes += token;
  }
  return bytes;
}

absl::StatusOr<GrammarVocabulary> VocabularyFromBytes(std::string_view bytes) {
  GrammarVocabulary vocabulary;
  if (!Read(Reader(bytes), &vocabulary)) return absl::DataLossError("not a vocabulary");
  return vocabulary;
}

}  // namespace lorica
