#include "server/text/chat_template.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

using Messages = std::vector<ChatTurn>;

std::unique_ptr<ChatTemplate> Make(std::string_view source, TemplateTokens tokens = {}) {
  auto made = MakeChatTemplate(source, tokens);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

std::string Joined(const std::vector<PromptPart>& parts) {
  std::string text;
  for (const PromptPart& part : parts) text += part.text;
  return text;
}

// As Joined, with what came from messages between braces.
std::string Marked(const std::vector<PromptPart>& parts) {
  std::string text;
  for (const PromptPart& part : parts)
    text += part.from_message ? "{" + part.text + "}" : part.text;
  return text;
}

std::vector<PromptPart> Render(std::string_view source, const Messages& messages,
                               bool add_generation_prompt = false, TemplateTokens tokens = {}) {
  auto rendered = Make(source, std::move(tokens))->Render(messages, add_generation_prompt);
  EXPECT_TRUE(rendered.ok()) << rendered.status();
  return rendered.ok() ? *std::move(rendered) : std::vector<PromptPart>();
}

const char kSmolLm2[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}";

TEST(ChatTemplateTest, SmolLm2AddsItsSystemText) {
  EXPECT_EQ(Joined(Render(kSmolLm2, {{"user", "What is the capital of France?"}}, true)),
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
            "Face<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(Joined(Render(kSmolLm2, {{"system", "Be brief."}, {"user", "Hi"}})),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
}

TEST(ChatTemplateTest, EqualsTheReferencePrompts) {
  const char* fixtures = std::getenv("LORICA_FIXTURES");
  if (fixtures == nullptr) GTEST_SKIP() << "set LORICA_FIXTURES to a folder with goldens/";
  std::ifstream in(std::filesystem::path(fixtures) / "goldens/goldens_public.json");
  const auto goldens = nlohmann::json::parse(in);
  ASSERT_FALSE(goldens.empty());
  for (const auto& golden : goldens) {
    EXPECT_EQ(Joined(Render(kSmolLm2, {{"user", golden["user"].get<std::string>()}}, true)),
              golden["prompt"].get<std::string>());
  }
}

// Meta's template for Llama 3 Instruct.
const char kLlama3[] =
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";

TEST(ChatTemplateTest, Llama3StartsWithItsFirstToken) {
  EXPECT_EQ(Joined(Render(kLlama3, {{"user", "  Hi \n"}, {"assistant", "Yes?"}}, true,
                          {"<|begin_of_text|>", "<|eot_id|>"})),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

// Mistral's template for its first Instruct models.
const char kMistral[] =
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
    "(loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token + ' ' }}{% else %}{{ raise_exception('Only user and "
    "assistant roles are supported!') }}{% endif %}{% endfor %}";

TEST(ChatTemplateTest, MistralAlternates) {
  EXPECT_EQ(Joined(Render(kMistral, {{"user", "a"}, {"assistant", "b"}, {"user", "c"}}, false,
                          {"<s>", "</s>"})),
            "<s>[INST] a [/INST]b</s> [INST] c [/INST]");
}

TEST(ChatTemplateTest, WhatTheTemplateRaisesIsToldToTheCaller) {
  const auto status = Make(kMistral)->Render({{"assistant", "b"}}, false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("roles must alternate"));
  EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("source")));
}

TEST(ChatTemplateTest, BlocksAreTrimmedAsTransformersTrimsThem) {
  const char source[] =
      "{% for m in messages %}\n"
      "    {% if m.role == 'user' %}\n"
      "U:{{ m.content }}\n"
      "    {%- else %}\n"
      "A:{{ m['content'] }}\n"
      "    {% endif %}\n"
      "{% endfor %}\n";
  EXPECT_EQ(Joined(Render(source, {{"user", "x"}, {"assistant", "y"}})), "U:xA:y\n");
}

TEST(ChatTemplateTest, LanguageOfPublishedTemplatesIsServed) {
  const auto text = [](std::string_view source) {
    return Joined(Render(source, {{"system", "S"}, {"user", " U "}, {"assistant", "A"}}));
  };
  EXPECT_EQ(text("{{ messages[1:]|length }}{{ messages[-1].content }}"), "2A");
  EXPECT_EQ(text("{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}"), "aus");
  EXPECT_EQ(text("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
                 "{% endfor %}{{ ns.n }}"),
            "3");
  EXPECT_EQ(text("{% macro twice(x, sep='-') %}{{ x }}{{ sep }}{{ x }}{% endmacro %}"
                 "{{ twice('a') }}{{ twice('b', sep='+') }}"),
            "a-ab+b");
  EXPECT_EQ(text("{% if tools is defined and tools %}T{% else %}-{% endif %}"), "-");
  EXPECT_EQ(text("{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|"
                 "join(',')|trim }}"),
            "U");
  EXPECT_EQ(text("{{ 'a</think>b</think>c'.split('</think>')[-1] }}"
                 "{{ 'a</think>b</think>c'.split('</think>', 1)[-1] }}"
                 "{{ 'a,b,c'.rsplit(',', 1)[0] }}{{ ''.split(',')|length }}"),
            "cb</think>ca,b1");
  EXPECT_EQ(text("{{ 'aXbX'|replace('X', '') }}{{ 'aa'.replace('a', 'aa') }}"), "abaaaa");
  EXPECT_EQ(text("{{ {'a': [1, 'x']}|tojson }}{{ [1,2]|length }}{{ ('a' ~ 1)|upper }}"),
            "{\"a\": [1, \"x\"]}2A1");
  EXPECT_EQ(text("{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}"
                 "{% endfor %}{{ range(0)|length }}"),
            "0125310");
  EXPECT_EQ(
      text("{{ 'x' * 3 }}{{ messages[0]['content'] == 'S' }}{{ 'S' in messages[0].content }}"),
      "xxxTrueTrue");
  EXPECT_EQ(text("{% set x %}{{ messages[0].role }}!{% endset %}{{ x }}"), "system!");
  EXPECT_EQ(text("{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}"
                 "{% if loop.last %}.{% endif %}{% endfor %}"),
            "1user2assistant.");
  EXPECT_EQ(text("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}"
                 "{% endfor %}{{ 4 is divisibleby 2 }}{{ 'u' if 4 is even else 'v' }}"),
            "systemTrueu");
  EXPECT_EQ(text("{%- filter upper -%} a{{ messages[0].role }} {%- endfilter -%}"), "ASYSTEM");
  EXPECT_EQ(text("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}"),
            "<in>");
  EXPECT_EQ(text("{# note #}{{ 'a\\nb' }}{{ not false }}{{ -3 + 1 }}{{ undefined_name }}"),
            "a\nbTrue-2");
  EXPECT_EQ(text("{{ dict(a=1).items()|list|length }}{{ (messages|first).role }}"), "1system");
}

TEST(ChatTemplateTest, TheClockIsAskedWithoutSharingState) {
  const std::string now = Joined(Render("{{ strftime_now('%Y-%m-%d') }}", {{"user", "x"}}));
  EXPECT_TRUE(std::regex_match(now, std::regex(R"(\d{4}-\d\d-\d\d)"))) << now;
}

TEST(ChatTemplateTest, TextOfMessagesIsKeptApart) {
  EXPECT_EQ(Marked(Render("<|im_start|>{{ messages[0].role }}\n{{ messages[0].content }}<|im_end|>",
                          {{"user", "<|im_end|>"}})),
            "<|im_start|>{user}\n{<|im_end|>}<|im_end|>");
}

TEST(ChatTemplateTest, WhateverIsMadeOfMessagesIsMessageText) {
  const auto marked = [](std::string_view expression) {
    const std::string source =
        "{% set c = messages[0].content %}{{ " + std::string(expression) + " }}";
    return Marked(Render(source, {{"user", "a</t>b"}}));
  };
  EXPECT_EQ(marked("c.split('</t>')[0]"), "{a}");
  EXPECT_EQ(marked("c.split('</t>')[1]"), "{b}");
  EXPECT_EQ(marked("c.rsplit('</t>')|join(',')"), "{a,b}");
  EXPECT_EQ(marked("c|replace('</t>', '<|x|>')"), "{a<|x|>b}");
  EXPECT_EQ(marked("c|upper|trim"), "{A</T>B}");
  EXPECT_EQ(marked("c[0]"), "{a}");
  EXPECT_EQ(marked("c[1:4]"), "{</t}");
  EXPECT_EQ(marked("messages[0]|tojson"), "{{\"role\": \"user\", \"content\": \"a</t>b\"}}");
  EXPECT_EQ(marked("tojson(messages[0].content)"), "{\"a</t>b\"}");
  EXPECT_EQ(marked("c|indent(2)"), "{a</t>b}");
  EXPECT_EQ(marked("[c, 'x']|join('+')"), "{a</t>b+x}");
  EXPECT_EQ(marked("[c]|string"), "{['a</t>b']}");
  EXPECT_EQ(marked("'x' ~ [c]"), "{x['a</t>b']}");
  EXPECT_EQ(marked("'<' ~ c ~ '>'"), "<{a</t>b}>");
  EXPECT_EQ(marked("c * 2"), "{a</t>ba</t>b}");
  EXPECT_EQ(marked("'{}!'.format(c)"), "{a</t>b}!");
  EXPECT_EQ(marked("c|length"), "6");
}

TEST(ChatTemplateTest, MessagesAreCounted) {
  const auto made = Make("{{ messages|length }}");
  EXPECT_EQ(made->Render({}, true).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Joined(*made->Render(Messages(kChatMessagesMax), true)),
            std::to_string(kChatMessagesMax));
  EXPECT_EQ(made->Render(Messages(kChatMessagesMax + 1), true).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, AFullHistoryFitsTheLimits) {
  for (const char* source : {kSmolLm2, kLlama3}) {
    const Messages many(kChatMessagesMax, {"user", std::string(1000, 'x')});
    const auto rendered = Make(source)->Render(many, true);
    EXPECT_TRUE(rendered.ok()) << rendered.status();
    const Messages large = {{"user", std::string(kTemplateRenderedBytesMax - 1000, 'x')}};
    EXPECT_TRUE(Make(source)->Render(large, true).ok());
  }
}

TEST(ChatTemplateTest, OneTemplateServesManyThreads) {
  const auto made = Make(kLlama3);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&made, t] {
      for (int i = 0; i < 50; ++i) {
        const std::string text = std::to_string(t * 1000 + i);
        const auto parts = made->Render({{"user", text}}, true);
        ASSERT_TRUE(parts.ok());
        ASSERT_THAT(Joined(*parts), HasSubstr("\n" + text + "<|eot_id|>"));
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(ChatTemplateTest, ToolsAndFurtherMembersAreMessageText) {
  const auto made = Make(
      "{% if tools is defined %}[{% for t in tools %}{{ t.function.name }}{% endfor %}]{% endif %}"
      "{% for m in messages %}({{ m.name }}{{ m.tool_calls[0].n + 1 }}){% endfor %}");
  const Messages messages = {{"user", "", R"({"name": "<eos>", "tool_calls": [{"n": 41}]})"}};
  EXPECT_EQ(Marked(*made->Render(messages, false, R"([{"function": {"name": "<s>"}}])")),
            "[{<s>}]({<eos>}42)");
  EXPECT_EQ(Marked(*made->Render(messages, false)), "({<eos>}42)");
  EXPECT_EQ(made->Render(messages, false, "[").status().code(), absl::StatusCode::kInvalidArgument);
  // Where they would be left out silently they are refused.
  const auto without = Make("{% for m in messages %}{{ m.content }}{% endfor %}");
  EXPECT_TRUE(without->Render(messages, false).ok());
  EXPECT_EQ(without->Render(messages, false, "[{}]").status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace lorica
