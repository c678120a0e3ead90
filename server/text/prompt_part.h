// A stretch of a prompt, and who wrote it. A plain value.
#pragma once

#include <string>

namespace lorica {

struct PromptPart {
  std::string text;
  bool from_message = false;  // true: special tokens written in it stay plain text
};

}  // namespace lorica
