#include "server/grammar/one_of.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace lorica {
namespace {

// An object that is told apart by `value` of its property "kind".
std::string Kind(const std::string& value, const std::string& more = "") {
  return absl::StrCat(R"({"type":"object","properties":{"kind":)", value, more,
                      R"(},"required":["kind"]})");
}

const std::string kA = R"({"const":"a"})";
const std::string kB = R"({"const":"b"})";

std::string OneOf(const std::string& branches, const std::string& parts = "{}") {
  return absl::StrCat(R"({"$defs":)", parts, R"(,"oneOf":[)", branches, "]}");
}

std::string AnyOf(const std::string& schema) {
  return absl::StrReplaceAll(schema, {{"oneOf", "anyOf"}});
}

TEST(OneOf, IsEasyWhereARequiredPropertyOrTheTypeTellsBranchesApart) {
  const std::string parts = absl::StrCat(R"({"a":)", Kind(kA), R"(,"b":)", Kind(kB),
                                         R"(,"c":{"$ref":"#/$defs/b"},"s":{"type":"string"}})");
  for (const std::string& schema :
       {OneOf(Kind(kA) + "," + Kind(kB)), OneOf(Kind(R"({"enum":["a","c"]})") + "," + Kind(kB)),
        OneOf(R"({"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"})", parts),
        OneOf(R"({"$ref":"#/$defs/a"},{"$ref":"#/$defs/c"})", parts),
        OneOf(R"({"$ref":"#/$defs/a"},{"$ref":"#/$defs/s"},{"type":"integer"})", parts),
        // One inside another, and in a list.
        OneOf(Kind(kA, R"(,"in":{"oneOf":[{"type":"null"},{"type":"string"}]})") + "," + Kind(kB)),
        std::string(R"({"items":{"oneOf":[{"type":"null"},{"type":"string"}]},"type":"array"})")}) {
    EXPECT_EQ(WithEasyOneOf(schema), AnyOf(schema));
  }
}

TEST(OneOf, StaysWhereBranchesMayOverlapOrAreNotKnown) {
  const std::string parts =
      absl::StrCat(R"({"a":)", Kind(kA), R"(,"loop":{"$ref":"#/$defs/loop"}})");
  std::string optional = Kind(kB);
  optional = absl::StrReplaceAll(optional, {{R"("required":["kind"])", R"("required":[])"}});
  for (const std::string& schema :
       {OneOf(Kind(kA) + "," + Kind(kA)), OneOf(Kind(kA) + "," + Kind(R"({"enum":["b","a"]})")),
        OneOf(Kind(kA) + "," + Kind(R"({"type":"string"})")), OneOf(Kind(kA) + "," + optional),
        OneOf(Kind(R"({"const":1})") + "," + Kind(R"({"const":1.0})")),
        OneOf(R"({"type":"integer"},{"type":"number"})"), OneOf(R"({"type":"string"},{})"),
        OneOf(R"({"type":"string"},true)"), OneOf(R"({"type":["string"]},{"type":"null"})"),
        OneOf(R"({"$ref":"#/$defs/a"},{"$ref":"#/$defs/none"})", parts),
        OneOf(R"({"$ref":"#/$defs/a"},{"$ref":"#/$defs/loop"})", parts),
        OneOf(R"({"$ref":"#/$defs/a"},{"$ref":"https://x.org/y"})", parts),
        OneOf(R"({"$ref":"#/$defs/a"},{"$ref":7})", parts)}) {
    EXPECT_EQ(WithEasyOneOf(schema), schema);
  }
}

TEST(OneOf, IsOnlyWhatASchemaMeansByIt) {
  for (const std::string schema :
       {R"({"const": {"oneOf": [{"type": "null"}, {"type": "string"}]}})",
        R"({"enum": [{"oneOf": [{"type": "null"}, {"type": "string"}]}]})",
        R"({"type": "object", "properties": {"oneOf": {"type": "null"}}})", "oneOf", "\"oneOf\"",
        R"({"oneOf": 7})", R"([{"oneOf": []}, 1e5])"}) {
    EXPECT_EQ(WithEasyOneOf(schema), schema);
  }
}

TEST(OneOf, NumbersAndTheOrderOfPropertiesStay) {
  const std::string schema =
      R"({"type":"object","properties":{"z":{"oneOf":[{"type":"null"},{"type":"string"}]},)"
      R"("a":{"const":9223372036854775807},"n":{"type":"number","minimum":0.1}}})";
  EXPECT_EQ(WithEasyOneOf(schema), AnyOf(schema));
}

}  // namespace
}  // namespace lorica
