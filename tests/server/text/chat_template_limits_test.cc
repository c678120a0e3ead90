// Templates that would never end, or would take all memory, end with a status.
#include <pthread.h>

#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/text/chat_template.h"
#include "tests/server/text/cpu_seconds.h"

namespace lorica {
namespace {

using testing::HasSubstr;

std::string Times(int n, std::string_view text) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

absl::Status MakeStatus(const std::string& source) { return MakeChatTemplate(source, {}).status(); }

absl::Status RenderStatus(const std::string& source, const std::string& content = "x") {
  const double start = CpuSeconds();
  auto made = MakeChatTemplate(source, {});
  if (!made.ok()) return made.status();
  const auto status = (*made)->Render({{"user", content}}, false).status();
  EXPECT_LT(CpuSeconds() - start, 10 * kInstrumentationFactor) << source;
  return status;
}

void ExpectRefused(const std::string& source) {
  const auto status = MakeStatus(source);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << source.substr(0, 200);
}

void ExpectStopped(const std::string& source, const std::string& content = "x") {
  const auto status = RenderStatus(source, content);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << source << status;
  EXPECT_LT(status.message().size(), 2000);
}

void ExpectRendered(const std::string& source, const std::string& content = "x") {
  const auto status = RenderStatus(source, content);
  EXPECT_TRUE(status.ok()) << source.substr(0, 200) << status;
}

TEST(TemplateLimitsTest, SourceBytes) {
  ExpectRendered(std::string(kTemplateSourceBytesMax, 'x'));
  ExpectRefused(std::string(kTemplateSourceBytesMax + 1, 'x'));
}

TEST(TemplateLimitsTest, Nesting) {
  const auto brackets = [](int n) { return "{{" + Times(n, "(") + "1" + Times(n, ")") + "}}"; };
  ExpectRendered(brackets(kTemplateNestingMax));
  ExpectRefused(brackets(kTemplateNestingMax + 1));
  ExpectRefused("{{" + Times(200'000, "(") + "1" + Times(200'000, ")") + "}}");
  ExpectRefused("{{" + Times(200'000, "[") + "}}");
  const auto blocks = [](int n) {
    return Times(n, "{% if true %}") + "x" + Times(n, "{% endif %}");
  };
  ExpectRendered(blocks(kTemplateNestingMax));
  ExpectRefused(blocks(kTemplateNestingMax + 1));
  const auto branches = [](int n) {
    return "{% if false %}" + Times(n - 1, "{% elif false %}") + "{% endif %}";
  };
  ExpectRendered(branches(kTemplateNestingMax));
  ExpectRefused(branches(kTemplateNestingMax + 1));
  const auto sets = [](int n) { return Times(n, "{% set x %}") + Times(n, "{% endset %}"); };
  ExpectRendered(sets(kTemplateNestingMax));
  ExpectRefused(sets(kTemplateNestingMax + 1));
  ExpectRendered(Times(1000, "{% if true %}{% elif x %}{% endif %}{% set x = 1 %}"));
}

TEST(TemplateLimitsTest, OperatorsInOneBlock) {
  const auto sum = [](int n) { return "{{ 1" + Times(n, "+1") + " }}"; };
  ExpectRendered(sum(kTemplateOperatorsMax));
  ExpectRefused(sum(kTemplateOperatorsMax + 1));
  ExpectRefused("{{ " + Times(60'000, "not ") + "1 }}");
  ExpectRefused("{{ " + Times(100'000, "-") + "1 }}");
  ExpectRefused("{{ x" + Times(100'000, ".a") + " }}");
  ExpectRefused("{{ x" + Times(100'000, "|d") + " }}");
  ExpectRefused("{{ x" + Times(60'000, "()") + " }}");
  ExpectRefused("{{ 1" + Times(20'000, " if 1 else 1") + " }}");
  ExpectRefused("{{ 1" + Times(60'000, " is x") + " }}");
}

TEST(TemplateLimitsTest, Names) {
  const auto names = [](int n) {
    std::string source;
    for (int i = 0; i < n - 1; ++i) source += "{% set a" + std::to_string(i) + " = 1 %}";
    return source;  // and "set"
  };
  ExpectRendered(names(kTemplateNamesMax));
  ExpectRefused(names(kTemplateNamesMax + 1));
}

TEST(TemplateLimitsTest, WhatDoesNotParseIsRefused) {
  for (const char* source : {"{{", "{%", "{% if %}", "{% if true %}", "{{ 1 + }}", "{% nonsense %}",
                             "{% for in x %}{% endfor %}", "{{ 'a }}", "{#", "{{ a.1b }}",
                             "{% endif %}", "{{ 99999999999999999999 }}", "{{ }}", "}}{%%}",
                             "{% call x %}{% endcall %}", "{% filter 1 %}{% endfilter %}",

                             "{{ [", "{{ {", "{% set %}"}) {
    ExpectRefused(source);
  }
}

TEST(TemplateLimitsTest, Ranges) {
  ExpectRendered("{% for i in range(10000) %}{% endfor %}");
  ExpectRendered("{% for i in range(-5000, 5000) %}{% endfor %}");
  ExpectStopped("{% for i in range(10001) %}{% endfor %}");
  ExpectStopped("{% for i in range(1000000000) %}{% endfor %}");
  ExpectStopped("{{ range(0, 9223372036854775807, 1)|length }}");
  ExpectStopped("{{ range(9223372036854775807, -9223372036854775808, -1)|length }}");
  ExpectRendered("{{ range(0, 9223372036854775807, 9223372036854775807)|length }}");
  ExpectStopped("{{ range(0, 1, 0) }}");
  ExpectStopped("{{ range() }}");
  ExpectStopped("{{ range('a') }}");
  ExpectStopped("{% set range = nothing %}{{ range(1000000000)|length }}");
}

TEST(TemplateLimitsTest, Steps) {
  ExpectStopped("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}");
  ExpectStopped(Times(20, "{% for i in range(2) %}{% for j in range(2) %}") +
                Times(20, "{% endfor %}{% endfor %}"));
  ExpectStopped("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
  ExpectStopped(
      "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
      "{{ f(60) }}");
  ExpectStopped("{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}");
}

TEST(TemplateLimitsTest, TextThatGrows) {
  ExpectStopped(
      "{% set ns = namespace(s='x') %}{% for i in range(100) %}"
      "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}");
  ExpectStopped(
      "{% set ns = namespace(s='x') %}{% for i in range(100) %}"
      "{% set ns.s = ns.s + ns.s %}{% endfor %}");
  ExpectStopped("{{ 'x' * 1000000000000000000 }}");
  ExpectStopped("{{ '' * 1000000000000000000 }}");
  ExpectStopped("{{ 1000000000000000000 * 'x' }}");
  ExpectRendered("{{ 'x' * -1000000000000000000 }}");
  ExpectStopped("{% set s = 'x' * 1000000 %}{% for i in range(10000) %}{{ s }}{% endfor %}");
  ExpectStopped("{% set s = 'x' * 1000000 %}{{ s|replace('x', s) }}");
  ExpectStopped("{{ 'abc'|replace('', 'x') }}");
  ExpectStopped("{% set s = 'x' * 1000000 %}{{ range(10000)|join(s) }}");
  ExpectStopped("{% set s = 'x' * 1000000 %}{{ range(10000)|join(d=s) }}");
  ExpectStopped("{% set s = '\n' * 100000 %}{{ s|indent('y' * 100000, blank=true) }}");
  ExpectStopped("{{ 'a\nb'|indent(1000000000) }}");
  ExpectStopped("{{ 'a\nb'.indent(width=-1) }}");
  ExpectStopped("{{ [1]|tojson(indent=2147483647) }}");
  ExpectStopped("{% set f = 'a\nb'.indent %}{{ f(1000000000) }}");
  ExpectStopped("{% set f = 'a\nb'.indent %}{% call f(1000000000) %}{% endcall %}");
  ExpectStopped("{{ ('x' * 9000000) }}");
}

TEST(TemplateLimitsTest, RenderedBytes) {
  const std::string source = "{{ messages[0].content }}";
  ExpectRendered(source, std::string(kTemplateRenderedBytesMax, 'x'));
  ExpectStopped(source, std::string(kTemplateRenderedBytesMax + 1, 'x'));
  ExpectStopped(source + "y", std::string(kTemplateRenderedBytesMax, 'x'));
}

TEST(TemplateLimitsTest, ValuesThatGrow) {
  ExpectStopped(
      "{% set ns = namespace(a=[1]) %}{% for i in range(100) %}"
      "{% set ns.a = ns.a + ns.a %}{% endfor %}");
  ExpectStopped(
      "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}"
      "{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a|tojson }}");
  ExpectStopped(
      "{% set ns = namespace(a=[1]) %}{% for i in range(100) %}"
      "{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a|tojson }}");
  ExpectStopped(
      "{% set x = [1] %}{% for i in range(100) %}{% set x = {'k': x} %}{% endfor %}"
      "{{ x == x }}");
  ExpectStopped("{% set x = [1] %}{% for i in range(10000) %}{% set x = (x, x) %}{% endfor %}");
  ExpectStopped(
      "{% set s = 'x' * 8000000 %}{% set ns = namespace(a=[]) %}"
      "{% for i in range(10000) %}{% set ns.a = ns.a + [s ~ i] %}{% endfor %}");
}

TEST(TemplateLimitsTest, NothingRefersToItself) {
  ExpectStopped("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns|tojson }}");
  ExpectStopped("{% set ns = namespace() %}{% set ns.me = [ns] %}");
  ExpectStopped("{% set ns = namespace() %}{% set other = namespace(of=ns) %}");
  ExpectStopped("{% set ns = namespace() %}{% set ns.d = dict(a=ns) %}");
  ExpectStopped("{% set ns = namespace() %}{{ [1]|map(attribute='x', default=ns)|list }}");
  ExpectStopped("{% set a = [] %}{{ a.append(a) }}");
  ExpectStopped("{% set a = [1] %}{{ a|pop }}");
  ExpectStopped("{% set d = {} %}{% set d.x = 1 %}");
  ExpectStopped("{% set ns = namespace() %}{% set ns.f = range %}");
}

TEST(TemplateLimitsTest, ArithmeticThatTraps) {
  ExpectStopped("{{ 1 is divisibleby 0 }}");
  ExpectStopped("{{ -9223372036854775808 is divisibleby(-1) }}");
  ExpectStopped("{{ [1]|select('divisibleby', 0)|list }}");
  ExpectStopped("{{ [{'a': 1}]|selectattr('a', 'divisibleby', 0)|list }}");
  ExpectStopped("{{ test_is_divisibleby(1, 0) }}");
  ExpectStopped("{{ messages[::-9223372036854775808] }}");
  ExpectStopped("{{ messages|slice(0, 9223372036854775807, 9223372036854775807) }}");
  ExpectStopped("{{ messages[::0] }}");
  ExpectRendered("{{ 1 / 0 }}{{ 1 % 0 }}{{ 9223372036854775807 + 1 }}");
}

TEST(TemplateLimitsTest, MessagesCannotMakeAnHonestTemplateSlow) {
  const std::string tags = Times(400'000, "</think>");
  ExpectRendered("{% set c = messages[0].content %}{{ c.split('</think>')[-1] }}", tags);
  ExpectRendered("{% set c = messages[0].content %}{{ c.rsplit('</think>')[0] }}", tags);
  ExpectStopped("{% set c = messages[0].content %}{{ c|replace('</think>', '</reasoning>') }}",
                Times(1'000'000, "</think>"));
  ExpectRendered("{% set c = messages[0].content %}{{ c|replace('</think>', '') }}{{ c|trim }}",
                 tags);
}

// Any order of the language's pieces: a status, in time, and never a crash.
TEST(TemplateLimitsTest, RandomTemplatesEndWithAStatus) {
  const std::vector<std::string> pieces = {"{{ ",
                                           " }}",
                                           "{% ",
                                           " %}",
                                           "{%- ",
                                           " -%}",
                                           "for x in ",
                                           "endfor",
                                           "if ",
                                           "elif ",
                                           "else",
                                           "endif",
                                           "set ",
                                           "endset",
                                           "macro f(x, y=1)",
                                           "endmacro",
                                           "call f(1)",
                                           "endcall",
                                           "f(x)",
                                           "filter upper",
                                           "endfilter",
                                           "x",
                                           "messages",
                                           "messages[0]",
                                           ".content",
                                           ".role",
                                           "[1:]",
                                           "[::-1]",
                                           "['role']",
                                           " = ",
                                           " == ",
                                           " + ",
                                           " ~ ",
                                           " * ",
                                           " % ",
                                           " - ",
                                           " and ",
                                           " not ",
                                           " in ",
                                           " is defined",
                                           " is string",
                                           "|length",
                                           "|tojson",
                                           "|trim",
                                           "|join(',')",
                                           "|list",
                                           "|replace('a', 'bb')",
                                           ".split('a')",
                                           "|map(attribute='role')",
                                           "|default('d')",
                                           "range(9)",
                                           "namespace(a=1)",
                                           "ns",
                                           "ns.a",
                                           "dict(a=x)",
                                           "'text'",
                                           "12",
                                           "-3.5",
                                           "[1, x]",
                                           "(x, 2)",
                                           "{'k': x}",
                                           "loop.index",
                                           "caller()",
                                           "raise_exception('r')",
                                           "true",
                                           "none",
                                           "(",
                                           ")",
                                           "[",
                                           "]",
                                           "{",
                                           "}",
                                           ",",
                                           "\n",
                                           "plain ",
                                           "{# c #}",
                                           "break",
                                           "continue",
                                           "|sort",
                                           "|items",
                                           "|abs"};
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const auto some = [&](int most) {
    std::string text;
    for (int n = random() % most + 1; n > 0; --n) text += pieces[random() % pieces.size()];
    return text;
  };
  int rendered = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string source = "{% set ns = namespace(a=[]) %}{% set x = messages %}";
    for (int n = random() % 4 + 1; n > 0; --n) {
      const char* open[] = {"{{ ", "{% set x = ", "{% for x in ", "{% if ", "{% set ns.a = ", ""};
      const char* close[] = {" }}", " %}", " %}{{ x }}{% endfor %}", " %}y{% endif %}", " %}", ""};
      const size_t kind = random() % 6;
      source += open[kind] + some(5) + close[kind];
    }
    rendered += RenderStatus(source, "banana").ok();
  }
  EXPECT_GT(rendered, 100);
}

// Work that stays within the budgets must stay within seconds, and within small stacks.
TEST(TemplateLimitsTest, TheDeepestRunFitsASmallStack) {
  constexpr size_t kStackBytes = kInstrumentationFactor * (2 << 20);
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, kStackBytes), 0);
  const auto run = [](void*) -> void* {
    const std::string deep = "{{ 1" + Times(kTemplateOperatorsMax - 1, "+1") + " }}";
    ExpectRendered(Times(kTemplateNestingMax, "{% if true %}") + deep +
                   Times(kTemplateNestingMax, "{% endif %}"));
    ExpectStopped("{% macro f() %}" + Times(kTemplateNestingMax - 3, "{% for x in [1] %}") +
                  "{{ f() }}" + Times(kTemplateNestingMax - 3, "{% endfor %}") +
                  "{% endmacro %}{{ f() }}");
    return nullptr;
  };
  pthread_t thread;
  ASSERT_EQ(pthread_create(&thread, &attributes, run, nullptr), 0);
  pthread_join(thread, nullptr);
}

}  // namespace
}  // namespace lorica
