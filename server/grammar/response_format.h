// The form that an answer must have, as a client asks for it.
//
// A plain value without any library behind it: faces fill it, the gateway checks it, and
// GrammarStore makes a grammar of it. Its bounds stand here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace lorica {

inline constexpr int64_t kFormatBytesMax = 64 << 10;   // of a schema, regex or EBNF
inline constexpr int kSchemaDepthMax = 64;             // nested objects and lists of a schema
inline constexpr int64_t kRepetitionMax = 2147483647;  // "{n,m}": the compiler counts in 32 bits

enum class FormatKind : uint8_t {
  kJsonObject,  // any JSON object; no text
  kJsonSchema,  // JSON that fits the schema
  kRegex,       // text that matches from its begin to its end
  kEbnf,        // a grammar in xgrammar's EBNF, from the rule "root"
};

struct ResponseFormat {
  FormatKind kind = FormatKind::kJsonObject;
  std::string text;
};

// Whether every part of a JSON schema is one that answers are held to. Annotations and unknown
// keywords are nobody's business; a keyword of JSON Schema that the compiler would leave out is
// refused by name, rather than ignored. InvalidArgument names the place.
absl::Status CheckSchema(std::string_view text);

// Whether a regex or a grammar means to its compiler what it means to who wrote it: both of the
// checks below, and InvalidArgument for a NUL, at which a grammar would end.
absl::Status CheckExpression(FormatKind kind, std::string_view text);
// InvalidArgument: a regex or a grammar has a repetition of more than kRepetitionMax, of which the
// compiler would keep the last 32 bits.
absl::Status CheckRepetitions(FormatKind kind, std::string_view text);
// InvalidArgument: a regex or a grammar has an escape that is no character, of which the compiler
// would make bytes that are no UTF-8; a regex has one that it would take for another character: \x
// with the digits behind it, or in a class of characters one that such digits follow, or a '^'
// first.
absl::Status CheckCodePoints(FormatKind kind, std::string_view text);

}  // namespace lorica
