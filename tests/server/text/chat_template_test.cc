#include "server/text/chat_template.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lorica {
namespace {
std::string Join(const std::vector<PromptPart>& parts) {
  std::string t;
  for (const auto& p : parts) t += (p.from_message ? "[" + p.text + "]" : p.text);
  return t;
}
TEST(ChatTemplateTest, Try) {
  auto made = MakeChatTemplate("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", {});
  ASSERT_TRUE(made.ok()) << made.status();
  auto r = (*made)->Render({{"user", "hi"}}, true);
  ASSERT_TRUE(r.ok()) << r.status();
  puts(Join(*r).c_str());
}
}  // namespace
}  // namespace lorica
