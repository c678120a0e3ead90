// Chat messages to prompt parts through the model's own Jinja template.
//
// The template comes from the base model on the operator's disk, never from a request or
// an adapter; messages come from anyone. Source, nesting, ranges, steps, the bytes that
// operations read and make, and the rendered bytes are capped, which holds the worst
// template to some seconds and about 1 GiB; no clock is involved. Beyond what Jinja2
// with Transformers' settings refuses, so are: containers that hold a namespace or a
// function, and a builtin as the target of a call block.
//
// Parts keep template text apart from message text, and whatever a template makes of a
// message counts as message text, so that special tokens written by a user stay plain text:
// hand the parts to Tokenizer::EncodeParts. Immutable: thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/text/prompt_part.h"

namespace lorica {

inline constexpr int64_t kTemplateSourceBytesMax = 256 << 10;
inline constexpr int kTemplateNestingMax = 64;
inline constexpr int64_t kTemplateRangeMax = 10'000;
inline constexpr int64_t kTemplateRenderedBytesMax = 8 << 20;
inline constexpr int64_t kTemplateStepsMax = 2'000'000;      // nodes run, variables copied
inline constexpr int64_t kTemplateWorkBytesMax = 512 << 20;  // read or made by all operations
inline constexpr int kTemplateOperatorsMax = 256;            // within one {{ }} or {% %}
inline constexpr int kTemplateNamesMax = 1024;               // different identifiers
inline constexpr int kChatMessagesMax = 4096;

struct ChatTurn {
  std::string role;
  std::string content;
  // Further members of the message, as a JSON object: tool_calls, tool_call_id, name.
  // Empty: none.
  std::string more = {};
};

struct TemplateTokens {
  std::string bos;
  std::string eos;
};

class ChatTemplate {
 public:
  virtual ~ChatTemplate() = default;
  // `tools`: what the template calls so, a JSON array; empty: none. Whatever it holds counts as
  // message text. InvalidArgument: no messages, too many, no JSON where it should be,
  // tools for a template that reads none, the template raised, or a cap was hit.
  virtual absl::StatusOr<std::vector<PromptPart>> Render(absl::Span<const ChatTurn> messages,
                                                         bool add_generation_prompt,
                                                         std::string_view tools = "") const = 0;
};

// FailedPrecondition: the template does not parse or is beyond a cap.
absl::StatusOr<std::unique_ptr<ChatTemplate>> MakeChatTemplate(std::string_view source,
                                                               const TemplateTokens& tokens);

}  // namespace lorica
