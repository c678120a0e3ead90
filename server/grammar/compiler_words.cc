#include "server/grammar/compiler_words.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace lorica {
namespace {

struct Phrase {
  const char* theirs;
  const char* ours;
};

// The first that a message holds counts.
constexpr Phrase kPhrases[] = {
    // regexes
    {"parenthesis is not closed", "a '(' is not closed"},
    {"Unmatched ')'", "a ')' closes nothing"},
    {"Unclosed '['", "a '[' is not closed"},
    {"Empty character class", "a class of characters is empty"},
    {"Invalid repetition count", "a repetition is not {n}, {n,} or {n,m}"},
    {"Two consecutive repetition", "one repetition follows another"},
    {"Escape sequence is not finished", "an escape is not finished"},
    {"Invalid Unicode escape", "an escape names no character"},
    {"Invalid control character", "an escape names no character"},
    {"is not recognized. The character itself", "an escape has no meaning"},
    {"Backreference", "back-references are not served"},
    {"Unicode character class", "classes by Unicode's properties are not served"},
    {"Word boundary", "word boundaries are not served"},
    {"Lookahead", "looking ahead is not served"},
    {"Lookbehind", "looking behind is not served"},
    {"Group modifier", "flags of groups are not served"},
    {"Invalid named capturing group", "the name of a group is not closed"},
    {"in the middle. It is ignored", "'^' and '$' are served at the two ends alone"},
    {"not a valid UTF-8", "it is not UTF-8"},
    // regexes and grammars
    {"Lower bound is larger", "a repetition's lower bound is above its upper one"},
    {"lower bound is larger", "a range of characters ends before it begins"},
    {"Lower bound cannot be negative", "a repetition's bound is negative"},
    {"Integer is too large", "a number is too large"},
    {"Nest layer", "it is nested too deep"},
    // grammars
    {"The root rule", "no rule is named root"},
    {"is not defined", "a rule is used that is not defined"},
    {"is defined multiple times", "a rule is defined twice"},
    {"Expect \" in string literal", "a text in quotes is not closed"},
    {"Unterminated character class", "a class of characters is not closed"},
    {"should not contain newline", "a class of characters is not closed in its line"},
    {"Invalid escape sequence", "an escape has no meaning"},
    {"Invalid UTF8", "it is not UTF-8"},
    {"Assign should", "'::=' must follow the name of a rule"},
    {"The rule name should be", "the name of a rule must begin its line"},
    {"Unexpected character", "a character has no meaning there"},
    {"Expect element", "an alternative, or what is to be repeated, is missing"},
    {"Expect", "something else is expected there"},
    // schemas
    {"Failed to parse JSON", "it is not JSON"},
    {"Schema 'false'", "a part is false, which no value fits"},
    {"prefixItems contains false", "prefixItems holds false, which no value fits"},
    {"Schema should be an object", "a schema must be an object"},
    {"Type should be", "type must be a string or a list of them"},
    {"Unsupported type", "a type is none of JSON Schema"},
    {"Value must be a number", "a bound must be a number"},
    {"Integer constraint must be", "the bounds of an integer must be whole numbers"},
    {"Integer exceeds", "a bound of an integer has more than 64 bits"},
    {"would cause integer", "no integer of 64 bits lies beyond a bound"},
    {"Invalid range", "no number lies between the bounds"},
    {"range contains no multipleOf", "no multiple lies between the bounds"},
    {"ignoring multipleOf",
     "multipleOf is served for integers, whole and not beside two bounds far apart"},
    {"ignoring minLength", "minLength and maxLength are not served beside pattern or format"},
    {"Invalid repetition range", "a count is negative, or its bounds leave none"},
    {"oneOf with overlapping",
     "oneOf has branches that neither their type nor a required property tells apart"},
    {"allOf with multiple", "allOf of several is not served"},
    {"URI should", "$ref leads to another document"},
    {"Cannot find field", "$ref leads to nothing in this schema"},
};

// These name a keyword and say what it must be.
constexpr const char* kPlainWords[] = {" must be ", " must not ", " is greater than ",
                                       " is less than ", " not exceeding "};

constexpr absl::string_view kKeyword = "Keyword ";
constexpr absl::string_view kUnserved = " is not supported";

std::string WhatIsWrong(FormatKind kind, absl::string_view message) {
  for (const Phrase& phrase : kPhrases) {
    if (absl::StrContains(message, phrase.theirs)) return phrase.ours;
  }
  if (kind == FormatKind::kRegex) return "it is no regex that is served";
  if (kind == FormatKind::kEbnf) return "it is no grammar that is served";
  for (const char* words : kPlainWords) {
    if (absl::StrContains(message, words)) return std::string(message);
  }
  if (absl::ConsumePrefix(&message, kKeyword) && absl::ConsumeSuffix(&message, kUnserved)) {
    return absl::StrCat(message, " is not served");
  }
  return "it is no schema that is served";
}

// The digits behind `name` in the message.
absl::string_view NumberBehind(absl::string_view message, absl::string_view name) {
  const size_t begin = message.find(name);
  if (begin == absl::string_view::npos) return "";
  const absl::string_view rest = message.substr(begin + name.size());
  size_t digits = 0;
  while (digits < rest.size() && absl::ascii_isdigit(rest[digits])) ++digits;
  return rest.substr(0, digits);
}

// A regex, and a schema, become a grammar on their way, whose lines nobody wrote.
std::string PlaceIn(FormatKind kind, absl::string_view message) {
  const absl::string_view position = NumberBehind(message, "at position ");
  const absl::string_view line = NumberBehind(message, "at line ");
  const absl::string_view column = NumberBehind(message, ", column ");
  if (!position.empty()) {
    const char* of = kind == FormatKind::kJsonSchema ? " of a pattern" : "";
    return absl::StrCat(" (at character ", position, of, ")");
  }
  if (kind != FormatKind::kEbnf || line.empty() || column.empty()) return "";
  return absl::StrCat(" (line ", line, ", column ", column, ")");
}

}  // namespace

absl::Status InOurWords(FormatKind kind, absl::string_view message) {
  message = absl::StripAsciiWhitespace(message);
  return absl::InvalidArgumentError(
      absl::StrCat("cannot be served: ", WhatIsWrong(kind, message), PlaceIn(kind, message)));
}

}  // namespace lorica
