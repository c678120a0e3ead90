#include "server/grammar/grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/server/grammar/byte_vocabulary.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class GrammarTest : public testing::Test {
 protected:
  std::shared_ptr<const Grammar> Make(FormatKind kind, const std::string& text = "") {
    auto made = maker_.Make({kind, text});
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *made : nullptr;
  }
  absl::Status Refusal(FormatKind kind, const std::string& text) {
    return maker_.Make({kind, text}).status();
  }
  // Whether a grammar lets `text` and then the end through, byte by byte.
  bool Takes(const std::shared_ptr<const Grammar>& grammar, const std::string& text) {
    auto walk = GrammarMaker::Walk(grammar);
    std::vector<int32_t> mask(maker_.mask_words());
    for (const char byte : text) {
      EXPECT_TRUE(walk->FillMask(absl::MakeSpan(mask)).ok());
      const auto token = static_cast<unsigned char>(byte);
      if (!Allows(mask, token)) return false;
      EXPECT_TRUE(walk->Accept(token).ok());
    }
    return walk->FillMask(absl::MakeSpan(mask)).ok() && Allows(mask, kEndToken);
  }

  const GrammarMaker maker_{ByteVocabulary()};
};

TEST_F(GrammarTest, ARegexHoldsFromBeginToEnd) {
  const auto grammar = Make(FormatKind::kRegex, "(yes|no){1,2}");
  EXPECT_TRUE(Takes(grammar, "yes"));
  EXPECT_TRUE(Takes(grammar, "noyes"));
  EXPECT_FALSE(Takes(grammar, "ye"));
  EXPECT_FALSE(Takes(grammar, "yesyesyes"));
  EXPECT_FALSE(Takes(grammar, "maybe"));
}

TEST_F(GrammarTest, AMaskHasTokensOfSeveralBytesAndNoEndBeforeTheEnd) {
  auto walk = GrammarMaker::Walk(Make(FormatKind::kRegex, "yes"));
  std::vector<int32_t> mask(maker_.mask_words());
  ASSERT_TRUE(walk->FillMask(absl::MakeSpan(mask)).ok());
  EXPECT_TRUE(Allows(mask, 'y') && Allows(mask, kLongToken));
  EXPECT_FALSE(Allows(mask, 'e') || Allows(mask, kEndToken));
  ASSERT_TRUE(walk->Accept(kLongToken).ok());
  ASSERT_TRUE(walk->FillMask(absl::MakeSpan(mask)).ok());
  for (int32_t token = 0; token < kEndToken; ++token) EXPECT_FALSE(Allows(mask, token)) << token;
  EXPECT_TRUE(Allows(mask, kEndToken));
}

TEST_F(GrammarTest, AnEbnfGrammarIsWalkedFromItsRoot) {
  const auto grammar = Make(FormatKind::kEbnf, "root ::= \"(\" root \")\" | \"x\"");
  EXPECT_TRUE(Takes(grammar, "((x))"));
  EXPECT_FALSE(Takes(grammar, "((x)"));
  EXPECT_THAT(std::string(Refusal(FormatKind::kEbnf, "start ::= \"x\"").message()),
              HasSubstr("root"));
}

TEST_F(GrammarTest, AnyObjectIsJustThat) {
  const auto grammar = Make(FormatKind::kJsonObject);
  EXPECT_TRUE(Takes(grammar, "{}"));
  EXPECT_TRUE(Takes(grammar, R"({"a": [1, 2.5e3, {"b": null}], "ü": "\n"})"));
  EXPECT_FALSE(Takes(grammar, "[]"));
  EXPECT_FALSE(Takes(grammar, "{}{}"));
}

TEST_F(GrammarTest, ASchemasPropertiesComeInItsOrderAndAloneUnlessItSaysSo) {
  const std::string properties = R"({"type": "object", "properties": {"z": {"type": "integer"},
      "a": {"type": "integer"}}, "required": ["z"])";
  const auto closed = Make(FormatKind::kJsonSchema, properties + "}");
  EXPECT_TRUE(Takes(closed, R"({"z": 1, "a": 2})"));
  EXPECT_TRUE(Takes(closed, R"({"z": 1})"));
  EXPECT_FALSE(Takes(closed, R"({"a": 2, "z": 1})"));
  EXPECT_FALSE(Takes(closed, R"({"z": 1, "b": 2})"));
  const auto open = Make(FormatKind::kJsonSchema,
                         properties + R"(, "additionalProperties": {"type": "string"}})");
  EXPECT_TRUE(Takes(open, R"({"z": 1, "b": "x"})"));
  EXPECT_FALSE(Takes(open, R"({"z": 1, "a": "x"})"));
}

TEST_F(GrammarTest, StringsOfLimitedLengthHoldNoControlCharacters) {
  const auto grammar = Make(FormatKind::kJsonSchema, R"({"type": "string", "maxLength": 3})");
  EXPECT_TRUE(Takes(grammar, R"("abc")"));
  EXPECT_FALSE(Takes(grammar, R"("abcd")"));
  for (char c = 1; c < ' '; ++c) {
    EXPECT_FALSE(Takes(grammar, std::string("\"") + c + "\"")) << int{c};
  }
}

TEST_F(GrammarTest, HalvesOfSurrogatePairsAreNoCharacters) {
  const auto grammar = Make(FormatKind::kRegex, "[^x]{1,4}");
  EXPECT_TRUE(Takes(grammar, "\xED\x9F\xBF\xEE\x80\x80"));  // the characters around them
  EXPECT_FALSE(Takes(grammar, "\xED\xA0\x80"));
  EXPECT_FALSE(Takes(grammar, "\xED\xBF\xBF"));
  EXPECT_FALSE(Takes(grammar, "\xC0\x80"));
  EXPECT_FALSE(Takes(grammar, "\xE0\x80\x80"));
  EXPECT_FALSE(Takes(grammar, "\xF4\x90\x80\x80"));
}

TEST_F(GrammarTest, EscapesThatAreLetThroughMeanWhatTheySay) {
  for (const char* regex : {"[\\u00e0-\\xff]", "\\u00e9", "[g\\xe9]"}) {
    EXPECT_TRUE(CheckExpression(FormatKind::kRegex, regex).ok()) << regex;
    EXPECT_TRUE(Takes(Make(FormatKind::kRegex, regex), "\xC3\xA9")) << regex;
  }
  const auto grammar = Make(FormatKind::kRegex, "[\\u{41}bc][a\\^][\\x01\\x67]");
  EXPECT_TRUE(Takes(grammar, "A^\x01"));
  EXPECT_TRUE(Takes(grammar, "bag"));
  EXPECT_FALSE(Takes(grammar, "Abg"));
}

TEST_F(GrammarTest, JsonIsWrittenInOneWay) {
  const auto grammar = Make(FormatKind::kJsonSchema, R"({"type": "array", "items": true})");
  EXPECT_TRUE(Takes(grammar, R"([1, {"a": [true, null]}])"));
  for (const char* text : {"[1,2]", "[1,  2]", "[ 1]", "[1]\n", "\n[1]", R"([{"a" : 1}])"}) {
    EXPECT_FALSE(Takes(grammar, text)) << text;
  }
}

TEST_F(GrammarTest, WhatTheCompilerWouldLeaveOutIsRefused) {
  const std::string overlapping = R"({"oneOf": [{"type": "number"}, {"type": "integer"}]})";
  EXPECT_THAT(std::string(Refusal(FormatKind::kJsonSchema, overlapping).message()),
              HasSubstr("oneOf"));
  EXPECT_TRUE(absl::IsInvalidArgument(
      Refusal(FormatKind::kJsonSchema, R"({"type": "number", "multipleOf": 0.1})")));
  EXPECT_TRUE(absl::IsInvalidArgument(
      Refusal(FormatKind::kJsonSchema, R"({"allOf": [{"type": "object"}, {"properties": {}}]})")));
}

TEST_F(GrammarTest, WholeNumbersOf64BitsAreWrittenAsTheyAre) {
  for (const std::string number : {"0", "9007199254740993", "-9007199254740993",
                                   "9223372036854775807", "-9223372036854775808"}) {
    const auto grammar = Make(FormatKind::kJsonSchema, R"({"enum": [)" + number + ", [1]]}");
    EXPECT_TRUE(Takes(grammar, number));
    EXPECT_FALSE(Takes(grammar, number + ".0"));
  }
}

TEST_F(GrammarTest, AlternativesThatAreReferencesAreKeptOrRefused) {
  const std::string parts = R"("$defs": {"cat": {"type": "object", "properties": {
      "kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind", "lives"]},
      "dog": {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}})";
  const std::string list = R"([{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}])";
  const auto any = Make(FormatKind::kJsonSchema, "{" + parts + R"(, "anyOf": )" + list + "}");
  EXPECT_TRUE(Takes(any, R"({"kind": "cat", "lives": 9})"));
  EXPECT_TRUE(Takes(any, R"({"kind": "dog"})"));
  EXPECT_FALSE(Takes(any, R"({"kind": "cat"})"));
  EXPECT_FALSE(Takes(any, R"({"kind": "dog", "lives": 9})"));
  EXPECT_FALSE(Takes(any, R"({"kind": "cow"})"));
  const auto one = Make(FormatKind::kJsonSchema, "{" + parts + R"(, "oneOf": )" + list + "}");
  EXPECT_TRUE(Takes(one, R"({"kind": "cat", "lives": 9})"));
  EXPECT_TRUE(Takes(one, R"({"kind": "dog"})"));
  EXPECT_FALSE(Takes(one, R"({"kind": "dog", "lives": 9})"));
  // Nothing tells these apart.
  const std::string twice = R"([{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/cat"}])";
  const absl::Status refused =
      Refusal(FormatKind::kJsonSchema, "{" + parts + R"(, "oneOf": )" + twice + "}");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("oneOf"));
}

// What the compiler says today of what many will write, and that none of it is said in its words.
TEST_F(GrammarTest, WhatIsNoGrammarIsRefusedInOurWords) {
  struct Case {
    FormatKind kind;
    const char* text;
    const char* says;
  };
  const auto regex = FormatKind::kRegex, ebnf = FormatKind::kEbnf, schema = FormatKind::kJsonSchema;
  for (const Case& one : std::vector<Case>{
           {regex, "(a", "a '(' is not closed (at character 3)"},
           {regex, "a)", "a ')' closes nothing (at character 2)"},
           {regex, "[a", "a '[' is not closed"},
           {regex, "[]", "a class of characters is empty"},
           {regex, "a{2,1}", "a repetition's lower bound is above its upper one"},
           {regex, "a{,}", "a repetition is not {n}, {n,} or {n,m}"},
           {regex, "*", "what is to be repeated, is missing"},
           {regex, "a**", "one repetition follows another"},
           {regex, "a(?=b)", "looking ahead is not served"},
           {regex, "a(?<=b)", "looking behind is not served"},
           {regex, "(?i)a", "flags of groups are not served"},
           {regex, "\\b", "word boundaries are not served"},
           {regex, "\\p{L}", "Unicode's properties"},
           {regex, "\\1", "back-references are not served"},
           {regex, "a$b", "at the two ends alone"},
           {regex, "[b-a]", "ends before it begins"},
           {regex, "\\", "an escape is not finished"},
           {ebnf, "root ::= (", "is missing (line 1, column 11)"},
           {ebnf, "", "no rule is named root"},
           {ebnf, "root ::= missing", "is used that is not defined"},
           {ebnf, "root ::= a\na ::= \"b\"\na ::= \"c\"", "defined twice (line 3, column 1)"},
           {ebnf, "root ::= \"a", "a text in quotes is not closed"},
           {ebnf, "root ::= [a", "a class of characters is not closed"},
           {ebnf, "root ::= \"\\q\"", "an escape has no meaning"},
           {ebnf, "root ::= \"a\" $", "a character has no meaning there"},
           {schema, "{", "it is not JSON"},
           {schema, "false", "a part is false"},
           {schema, R"({"$ref": "#/nowhere"})", "$ref leads to nothing in this schema"},
           {schema, R"({"$ref": "https://example.com/schema"})", "$ref leads to another document"},
           {schema, R"({"type": "nothing"})", "a type is none of JSON Schema"},
           {schema, R"({"type": 5})", "type must be a string"},
           {schema, R"({"enum": []})", "enum array must not be empty"},
           {schema, R"({"properties": {"a": 5}})", "a schema must be an object"},
           {schema, R"({"type": "integer", "minimum": 5, "maximum": 2})", "between the bounds"},
           {schema, R"({"type": "integer", "minimum": 9223372036854775808})", "64 bits"},
           {schema, R"({"type": "integer", "minimum": 1.5})", "must be whole numbers"},
           {schema, R"({"type": "string", "minLength": -1})", "a count is negative"},
           {schema, R"({"type": "string", "minLength": 3, "maxLength": 2})", "is greater than"},
           {schema, R"({"type": "string", "pattern": "(a"})", "(at character 3 of a pattern)"},
           {schema, R"({"type": "number", "multipleOf": 0.1})", "multipleOf is served for"},
           {schema, R"({"type": "integer", "multipleOf": 0.5})", "multipleOf is served for"},
           {schema, R"({"allOf": [{"type": "null"}, {"type": "null"}]})", "allOf of several"},
           {schema, R"({"oneOf": [{"type": "null"}, {"type": "null"}]})", "oneOf has branches"}}) {
    const absl::Status status = Refusal(one.kind, one.text);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << one.text << ": " << status;
    const std::string text(status.message());
    EXPECT_THAT(text, HasSubstr(one.says)) << one.text;
    for (const char* theirs : {"Check failed", ".cc", "EBNF", "parsing", "supported", "ignor"}) {
      EXPECT_THAT(text, Not(HasSubstr(theirs))) << one.text;
    }
  }
}

TEST_F(GrammarTest, AGrammarThatNoTextFitsIsRefused) {
  EXPECT_THAT(std::string(Refusal(FormatKind::kEbnf, "root ::= root").message()),
              HasSubstr("no text fits"));
  EXPECT_THAT(std::string(Refusal(FormatKind::kJsonSchema, R"({"$ref": "#"})").message()),
              HasSubstr("no text fits"));
}

TEST_F(GrammarTest, APartThatNothingFitsIsFoundWhenAnAnswerGetsThere) {
  auto walk = GrammarMaker::Walk(Make(FormatKind::kEbnf, "root ::= \"a\" b\nb ::= b \"c\""));
  std::vector<int32_t> mask(maker_.mask_words());
  ASSERT_TRUE(walk->FillMask(absl::MakeSpan(mask)).ok());
  ASSERT_TRUE(walk->Accept('a').ok());
  EXPECT_TRUE(absl::IsInvalidArgument(walk->FillMask(absl::MakeSpan(mask))));
}

TEST_F(GrammarTest, AVocabularySurvivesAsBytes) {
  const GrammarVocabulary vocabulary = ByteVocabulary();
  const std::string bytes = ToBytes(vocabulary);
  const auto read = VocabularyFromBytes(bytes);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->tokens, vocabulary.tokens);
  EXPECT_EQ(read->end_tokens, vocabulary.end_tokens);
  EXPECT_FALSE(VocabularyFromBytes(bytes.substr(0, bytes.size() - 1)).ok());
  EXPECT_FALSE(VocabularyFromBytes(bytes + "x").ok());
}

}  // namespace
}  // namespace lorica
