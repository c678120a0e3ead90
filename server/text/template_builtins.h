// The engine's functions, methods and filters, made safe to call.
//
// A call is checked and charged before the engine's own code runs; the few builtins that
// take quadratic time or unbounded memory are replaced. What a builtin makes of message
// text stays message text. Free functions over RenderState. Private to this folder.
#pragma once

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "jinja/value.h"

namespace lorica {

// The global functions a template may call; null if there is none of that name.
jinja::value GlobalFunction(const std::string& name);

// A builtin of a value: `values` is the value itself and then the arguments. `engine`
// runs the engine's own code.
jinja::value ApplyBuiltin(const std::string& name, const std::vector<jinja::value>& values,
                          absl::FunctionRef<jinja::value()> engine);

// Checks and charges a test (`is name`); `values` as above.
void CheckTest(const std::string& name, const std::vector<jinja::value>& values);

// Charges both sides of an operator and what it may make.
void CheckOperator(const std::string& op, const jinja::value& left, const jinja::value& right);

// Charges a result and marks it as message text if any of `sources` was and it is not.
jinja::value Admit(jinja::value result, const std::vector<jinja::value>& sources);

}  // namespace lorica
