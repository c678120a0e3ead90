// Bounds on a template's source, checked on its tokens before the recursive parser sees it.
// A free function without state. Private to this folder.
#pragma once

#include "absl/status/status.h"
#include "jinja/lexer.h"

namespace lorica {

// FailedPrecondition: blocks and brackets inside each other beyond kTemplateNestingMax, more
// operators in one block than kTemplateOperatorsMax, more names than kTemplateNamesMax.
absl::Status CheckTemplateTokens(const jinja::lexer_result& source);

// How many different identifiers there are: at least as many as variables at any time.
int CountTemplateNames(const jinja::lexer_result& source);

}  // namespace lorica
