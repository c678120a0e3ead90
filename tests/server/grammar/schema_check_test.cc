#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "server/grammar/response_format.h"
#include "tests/fakes/cpu_timer.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

TEST(SchemaCheck, EverySchemaOfTheTestDataIsServed) {
  std::ifstream file(LORICA_TEST_DATA "/schemas.jsonl");
  int count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    EXPECT_TRUE(CheckSchema(line).ok()) << line << "\n" << CheckSchema(line);
  }
  EXPECT_GE(count, 200);
}

struct Case {
  const char* schema;
  const char* says;
};

// What the compiler would leave out, or keep otherwise than JSON Schema means it.
const Case kRefused[] = {
    {"", "not JSON"},
    {"{", "not JSON at byte 2"},
    {R"({"const": 1e400})", "a number too large for a double, up to byte 15"},
    {"[]", "must be an object"},
    {"7", "must be an object"},
    {R"({"a": 1, "a": 2})", "the key a twice"},
    {R"({"not": {"type": "null"}})", "not is not served"},
    {R"({"if": {}, "then": {}})", "if is not served"},
    {R"({"type": "object", "dependentRequired": {}})", "dependentRequired"},
    {R"({"type": "array", "items": {}, "uniqueItems": true})", "uniqueItems"},
    {R"({"type": "array", "contains": {}})", "contains"},
    {R"({"$ref": "#/$defs/a", "$defs": {"a": {}}, "minLength": 2})", "minLength beside $ref"},
    {R"({"anyOf": [{"type": "null"}], "properties": {}})", "properties beside anyOf"},
    {R"({"type": "string", "anyOf": [{}]})", "type beside anyOf"},
    {R"({"enum": [1], "minimum": 0})", "minimum beside enum"},
    {R"({"type": "string", "enum": ["a", 1]})", "not of the type"},
    {R"({"type": "integer", "const": 1.5})", "not of the type"},
    {R"({"const": 9223372036854775808})", "more than 64 bits"},
    {R"({"enum": [{"deep": [9223372036854775808]}]})", "more than 64 bits"},
    {R"({"const": -9223372036854775809})", "more than 64 bits"},
    {R"({"const": 18446744073709551616})", "more than 64 bits"},
    {R"({"enum": [0, {"deep": [100000000000000000000000001]}]})", "more than 64 bits"},
    {R"({"type": "number", "const": 1e20})", "more than 64 bits"},
    {R"({"minimum": 3})", "minimum needs a type"},
    {R"({"pattern": "a"})", "pattern needs a type"},
    {R"({"required": ["a"]})", "needs a type"},
    {R"({"properties": {}, "items": {}})", "need a type"},
    {R"({"type": "object", "properties": {}, "required": ["a"]})", "required names a"},
    {R"({"type": "object", "properties": [], "required": []})", "must be an object"},
    {R"({"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 2})",
     "minProperties above 1"},
    {R"({"type": "object", "properties": {"a": {}}, "patternProperties": {"b": {}}})",
     "one at a time"},
    {R"({"type": "object", "properties": {"a": {}}, "propertyNames": {"maxLength": 2}})",
     "one at a time"},
    {R"({"type": "object", "patternProperties": {"b": {}, "c": {}}})", "one pattern"},
    {R"({"type": "string", "format": "json-pointer"})", "format"},
    {R"({"type": "string", "format": "idn-email"})", "format"},
    {R"({"type": "string", "format": "date", "pattern": "^2020-"})", "pattern beside format"},
    {R"({"type": "object", "propertyNames": {"format": "uuid", "pattern": "a"}})",
     "pattern beside format"},
    {R"({"type": []})", "type must name one"},
    {R"({"type": "number", "minimum": 1e-9, "maximum": 2e-9})", "six decimals"},
    {R"({"type": "number", "minimum": 1.00000001, "maximum": 1.00000002})", "six decimals"},
    {R"({"type": "number", "minimum": 0.3333333333, "maximum": 0.3333333333})", "six decimals"},
    {R"({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-7})", "six decimals"},
    {R"({"type": "number", "minimum": 2, "exclusiveMaximum": 2})", "six decimals"},
    {R"({"type": "number", "minimum": 3, "maximum": 2})", "six decimals"},
    {R"({"type": "number", "exclusiveMinimum": 1e15, "maximum": 1e15})", "six decimals"},
    {R"({"type": "number", "exclusiveMinimum": 1e300, "maximum": 1e300})", "six decimals"},
    {R"({"type": "number", "minimum": 1e305, "maximum": 1e305})", "six decimals"},
    {R"({"type": "string", "pattern": "say \"no\""})", "quotes"},
    {R"({"type": "string", "pattern": "\\x22"})", "escaped"},
    {R"({"type": "string", "pattern": "a\u0000b"})", "NUL"},
    {R"({"type": "string", "pattern": "[\\^a]"})", "'^'"},
    {R"({"type": "object", "patternProperties": {"[\\^a]": {}}})", "'^'"},
    {R"({"type": "object", "patternProperties": {"say \"no\"": {}}})", "quotes"},
    {R"({"anyOf": []})", "must be a list"},
    {R"({"$ref": "#/x-hidden/a", "x-hidden": {"a": {"not": {}}}})", "#.x-hidden.a) not"},
    {R"({"$ref": "#/x", "x": {"$ref": "#/y"}, "y": {"items": {"$ref": "#/x"}, "if": {}}})",
     "#.y) if"},
    {R"({"type": "object", "properties": {"a": {"items": {"not": {}}}}})",
     "(properties.a.items) not"},
    {R"({"$defs": {"unused": {"not": {}}}, "type": "null"})", "($defs.unused) not"},
};

TEST(SchemaCheck, WhatAnswersWouldNotBeHeldToIsRefusedByName) {
  for (const Case& one : kRefused) {
    const absl::Status status = CheckSchema(one.schema);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << one.schema << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(one.says)) << one.schema;
  }
}

TEST(SchemaCheck, WhatSaysNothingOfAnswersIsTaken) {
  for (const char* schema :
       {"true", "{}", R"({"title": "t", "description": "d", "default": 1, "examples": [2]})",
        R"({"type": "string", "format": "of-nobody", "x-extension": {"not": 1}})",
        R"({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}, "description": "d"})",
        R"({"type": "number", "minimum": 0.3, "maximum": 0.3})",
        R"({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 2e-6})",
        R"({"type": "number", "minimum": -1e-7, "maximum": 1e-7})",
        R"({"type": "number", "minimum": 1e300})",
        R"({"type": "array", "items": {}, "uniqueItems": false})",
        R"({"const": 9223372036854775807})", R"({"const": -9223372036854775807})",
        R"({"enum": [1.5, 1e18, [9223372036854770000.0]]})"}) {
    EXPECT_TRUE(CheckSchema(schema).ok()) << schema << CheckSchema(schema);
  }
}

// A part with very many parts of its own, and as many ways to name it as there is room for.
std::string ManyNamesOfOneLargePart() {
  std::string part = "{}";
  for (int i = 1; i < 9000; ++i) part += ",{}";
  std::string names = "{}";
  for (int i = 0; std::ssize(names) + std::ssize(part) < kFormatBytesMax - 200; ++i) {
    names += R"(,{"$ref":"#)";
    for (int bits = i + 1; bits > 0; bits /= 2) names += bits % 2 == 0 ? "/" : "/#";
    names += R"(/a"})";
  }
  return R"({"a":{"anyOf":[)" + part + R"(]},"$defs":{"r":{"anyOf":[)" + names + "]}}}";
}

TEST(SchemaCheck, NoTextTakesLong) {
  const std::string schema = ManyNamesOfOneLargePart();
  ASSERT_LE(std::ssize(schema), kFormatBytesMax);
  const CpuTimer timer;
  EXPECT_TRUE(CheckSchema(schema).ok());
  EXPECT_LT(timer.seconds(), 2);
}

// `levels` objects in each other.
std::string Nested(int levels) {
  std::string schema = "{}";
  for (int i = 1; i < levels; i += 2) schema = R"({"properties": {"a": )" + schema + "}}";
  return schema;
}

TEST(SchemaCheck, NestingIsBounded) {
  EXPECT_TRUE(CheckSchema(Nested(kSchemaDepthMax - 1)).ok());
  EXPECT_TRUE(CheckSchema(R"({"items": )" + Nested(kSchemaDepthMax - 1) + "}").ok());
  EXPECT_FALSE(CheckSchema(Nested(kSchemaDepthMax + 1)).ok());
  EXPECT_FALSE(CheckSchema(std::string(kFormatBytesMax, '[')).ok());
}

}  // namespace
}  // namespace lorica
