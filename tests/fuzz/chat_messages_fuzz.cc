// Chat messages through the templates that models bring: what a user writes stays message text.
#include <memory>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "server/text/chat_template.h"
#include "tests/fuzz/fuzz.h"

namespace lorica {
namespace {

// SmolLM2's, Llama 3's, and one that works on the text of messages.
const char* const kTemplates[] = {
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}",
    "{% for m in messages %}{{ '[INST]' }}{{ m.role | upper }}{{ m.content.split('</think>')[-1] "
    "| replace('a', 'bb') | trim }}{{ '[/INST]' }}{% endfor %}",
};

const std::vector<std::unique_ptr<ChatTemplate>>& Chats() {
  static const auto* const chats = [] {
    auto* made = new std::vector<std::unique_ptr<ChatTemplate>>;
    for (const char* source : kTemplates) {
      auto chat = MakeChatTemplate(source, {"<s>", "</s>"});
      LORICA_CHECK(chat.ok(), chat.status().ToString());
      made->push_back(*std::move(chat));
    }
    return made;
  }();
  return *chats;
}

std::vector<ChatTurn> Messages(FuzzScript script) {
  static const char* const kRoles[] = {"system", "user", "assistant", "<|im_start|>", ""};
  std::vector<ChatTurn> messages;
  while (!script.empty() && messages.size() < 64) {
    const char* role = kRoles[script.Below(5)];
    messages.push_back({role, std::string(script.Until("\x1e"))});
  }
  return messages;
}

std::string TemplateText(const std::vector<PromptPart>& parts) {
  std::string text;
  for (const PromptPart& part : parts) {
    if (!part.from_message) text += part.text;
  }
  return text;
}

}  // namespace
}  // namespace lorica

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lorica;
  FuzzScript script(data, size);
  const uint8_t choice = script.Byte();
  std::vector<ChatTurn> messages = Messages(script);
  const ChatTemplate& chat = *Chats()[choice % 3];
  const auto rendered = chat.Render(messages, choice >= 128);
  if (!rendered.ok()) {
    LORICA_CHECK(absl::IsInvalidArgument(rendered.status()), rendered.status().ToString());
    return 0;
  }
  int64_t bytes = 0;
  for (const PromptPart& part : *rendered) bytes += std::ssize(part.text);
  LORICA_CHECK(bytes <= kTemplateRenderedBytesMax, bytes);
  // The template's own text is the same whatever the messages say.
  for (ChatTurn& message : messages) message.content = "x";
  const auto plain = chat.Render(messages, choice >= 128);
  LORICA_CHECK(plain.ok() && TemplateText(*plain) == TemplateText(*rendered));
  return 0;
}
