#include "server/text/chat_template.h"

#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "jinja/runtime.h"
#include "server/text/template_checks.h"
#include "server/text/template_nodes.h"
#include "server/text/template_state.h"

namespace lorica {
namespace {

using jinja::mk_val;
using jinja::value;

constexpr size_t kErrorBytesMax = 1000;  // the engine quotes the template in its messages

value Text(const std::string& text, bool from_message) {
  auto out = mk_val<jinja::value_string>(text);
  if (from_message) out->mark_input();
  return out;
}

// Its depth is bounded by whoever read it from a request.
value FromJson(const nlohmann::ordered_json& json) {
  if (json.is_object()) {
    auto object = mk_val<jinja::value_object>();
    for (const auto& [key, member] : json.items()) object->insert(key, FromJson(member));
    return object;
  }
  if (json.is_array()) {
    auto list = mk_val<jinja::value_array>();
    for (const auto& item : json) list->push_back(FromJson(item));
    return list;
  }
  if (json.is_string()) return Text(json.get<std::string>(), true);
  if (json.is_boolean()) return mk_val<jinja::value_bool>(json.get<bool>());
  if (json.is_number_integer()) return mk_val<jinja::value_int>(json.get<int64_t>());
  if (json.is_number()) return mk_val<jinja::value_float>(json.get<double>());
  return mk_val<jinja::value_none>();
}

nlohmann::ordered_json ParseJson(std::string_view text) {
  auto json = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) throw std::invalid_argument("a part that should be JSON is none");
  return json;
}

value MessageList(absl::Span<const ChatTurn> messages) {
  auto list = mk_val<jinja::value_array>();
  for (const ChatTurn& turn : messages) {
    auto message = mk_val<jinja::value_object>();
    message->insert("role", Text(turn.role, true));
    message->insert("content", Text(turn.content, true));
    if (!turn.more.empty()) {
      const nlohmann::ordered_json more = ParseJson(turn.more);
      for (const auto& [key, member] : more.items()) message->insert(key, FromJson(member));
    }
    list->push_back(std::move(message));
  }
  return list;
}

class GuardedTemplate final : public ChatTemplate {
 public:
  GuardedTemplate(jinja::program program, TemplateTokens tokens, bool reads_tools)
      : program_(std::move(program)), tokens_(std::move(tokens)), reads_tools_(reads_tools) {}

  absl::StatusOr<std::vector<PromptPart>> Render(absl::Span<const ChatTurn> messages,
                                                 bool add_generation_prompt,
                                                 std::string_view tools) const override {
    if (messages.empty()) return absl::InvalidArgumentError("messages is empty: send at least one");
    if (messages.size() > kChatMessagesMax) {
      return absl::InvalidArgumentError(absl::StrCat("messages has ", messages.size(),
                                                     " items, limit ", kChatMessagesMax,
                                                     ": send less of the history"));
    }
    if (!tools.empty() && !reads_tools_) {
      return absl::InvalidArgumentError(
          "tools are unknown to this model's chat template: leave them out");
    }
    RenderState state;
    try {
      return RenderParts(messages, add_generation_prompt, tools);
    } catch (const std::exception& error) {
      if (!state.status().ok()) return state.status();
      return absl::InvalidArgumentError(
          absl::StrCat("the chat template cannot render these messages: ",
                       std::string(error.what()).substr(0, kErrorBytesMax)));
    }
  }

 private:
  std::vector<PromptPart> RenderParts(absl::Span<const ChatTurn> messages,
                                      bool add_generation_prompt, std::string_view tools) const {
    jinja::context scope;
    scope.set_val("messages", MessageList(messages));
    if (!tools.empty()) scope.set_val("tools", FromJson(ParseJson(tools)));
    scope.set_val("add_generation_prompt", mk_val<jinja::value_bool>(add_generation_prompt));
    scope.set_val("bos_token", Text(tokens_.bos, false));
    scope.set_val("eos_token", Text(tokens_.eos, false));
    const value results = jinja::runtime(scope).execute(program_);
    const auto text = jinja::runtime::gather_string_parts(results);
    std::vector<PromptPart> parts;
    int64_t bytes = 0;
    for (auto& part : text->val_str.parts) {
      bytes += static_cast<int64_t>(part.val.size());
      if (!part.val.empty()) parts.push_back({std::move(part.val), part.is_input});
    }
    if (bytes > kTemplateRenderedBytesMax) {
      RenderState::Current().Stop(
          absl::StrCat("the prompt has more than ", kTemplateRenderedBytesMax, " bytes"));
    }
    return parts;
  }

  const jinja::program program_;
  const TemplateTokens tokens_;
  const bool reads_tools_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> MakeChatTemplate(std::string_view source,
                                                               const TemplateTokens& tokens) {
  if (source.size() > kTemplateSourceBytesMax) {
    return absl::FailedPreconditionError(absl::StrCat("the chat template has ", source.size(),
                                                      " bytes, limit ", kTemplateSourceBytesMax));
  }
  try {
    const std::string lines =
        absl::StrReplaceAll({source.data(), source.size()}, {{"\r\n", "\n"}, {"\r", "\n"}});
    const jinja::lexer_result lexed = jinja::lexer().tokenize(lines);
    if (auto status = CheckTemplateTokens(lexed); !status.ok()) return status;
    jinja::program program = jinja::parse_from_tokens(lexed);
    GuardProgram(&program, CountTemplateNames(lexed));
    return std::make_unique<GuardedTemplate>(std::move(program), tokens,
                                             absl::StrContains(lines, "tools"));
  } catch (const std::exception& error) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the chat template does not parse: ", std::string(error.what()).substr(0, kErrorBytesMax)));
  }
}

}  // namespace lorica
