#include "server/http/json.h"

#include <charconv>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

// How the library numbers its error about a number that no double holds.
constexpr int kNumberTooLarge = 406;

// Builds a document; every callback returns whether to go on.
class BoundedReader final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& key) override {
    if (open_.back()->contains(key)) return Refuse("an object has the same key twice");
    key_ = std::move(key);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const bool too_large = error.id == kNumberTooLarge;
    return Refuse(absl::StrCat(
        too_large ? "a number too large for a double, up to byte " : "a syntax error at byte ",
        position));
  }

  Json& document() { return document_; }
  const std::string& error() const { return error_; }

 private:
  bool Refuse(std::string error) {
    error_ = std::move(error);
    return false;
  }
  Json* Put(Json value) {
    if (open_.empty()) {
      document_ = std::move(value);
      return &document_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    Json& place = (*open_.back())[key_];
    place = std::move(value);
    return &place;
  }
  bool Add(Json value) {
    if (++values_ > kJsonValuesMax) {
      return Refuse(absl::StrCat("more than ", kJsonValuesMax, " values"));
    }
    Put(std::move(value));
    return true;
  }
  bool Open(Json value) {
    if (open_.size() >= kJsonDepthMax) {
      return Refuse(absl::StrCat("nested more than ", kJsonDepthMax, " deep"));
    }
    if (++values_ > kJsonValuesMax) {
      return Refuse(absl::StrCat("more than ", kJsonValuesMax, " values"));
    }
    open_.push_back(Put(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  Json document_;
  std::vector<Json*> open_;  // stable: a container grows only while it is the last one
  std::string key_;
  int values_ = 0;
  std::string error_;
};

// Writes again what lies at a path.
class MemberWriter final : public nlohmann::json_sax<Json> {
 public:
  explicit MemberWriter(const std::vector<std::string>& path) : path_(path) {}

  bool null() override { return Scalar("null"); }
  bool boolean(bool value) override { return Scalar(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return Scalar(absl::StrCat(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Scalar(absl::StrCat(value)); }
  bool number_float(number_float_t, const string_t& as_written) override {
    return Scalar(as_written);
  }
  bool string(string_t& value) override { return Scalar(Dump(Json(value))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return Open('{'); }
  bool start_array(std::size_t) override { return Open('['); }
  bool end_object() override { return Close('}'); }
  bool end_array() override { return Close(']'); }
  bool key(string_t& key) override {
    if (writes_) {
      Separate();
      absl::StrAppend(&text_, Dump(Json(key)), ":");
      after_key_ = true;
    } else if (matched_ >= depth_ - 1 && depth_ <= path_.size()) {
      matched_ = key == path_[depth_ - 1] ? depth_ : depth_ - 1;
    }
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

  std::string& text() { return text_; }

 private:
  bool Begins() const { return !writes_ && depth_ == path_.size() && matched_ == depth_; }
  void Separate() {
    if (text_.back() != '{' && text_.back() != '[') text_ += ',';
  }
  void Place() {
    if (!text_.empty() && !std::exchange(after_key_, false)) Separate();
  }
  // False ends the reading: it has what it came for.
  bool Scalar(const std::string& written) {
    if (!writes_ && !Begins()) return true;
    Place();
    text_ += written;
    return writes_;
  }
  bool Open(char bracket) {
    if (Begins()) writes_ = true;
    if (writes_) {
      Place();
      text_ += bracket;
    }
    ++depth_;
    return true;
  }
  bool Close(char bracket) {
    --depth_;
    if (!writes_) return true;
    text_ += bracket;
    return depth_ > path_.size();
  }

  const std::vector<std::string>& path_;
  size_t depth_ = 0;    // of open containers
  size_t matched_ = 0;  // names of the path that lead here
  bool writes_ = false;
  bool after_key_ = false;
  std::string text_;
};

}  // namespace

std::string MemberText(std::string_view text, const std::vector<std::string>& path) {
  MemberWriter writer(path);
  Json::sax_parse(text, &writer);
  return std::move(writer.text());
}

absl::StatusOr<Json> ParseJson(std::string_view text) {
  BoundedReader reader;
  if (!Json::sax_parse(text, &reader)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body is not usable JSON: ", reader.error()));
  }
  return std::move(reader.document());
}

double ShortDouble(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double result = 0.0;
  std::from_chars(text, end, result);
  return result;
}

}  // namespace lorica
