#include "server/text/template_builtins.h"

#include <algorithm>
#include <ctime>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "jinja/runtime.h"
#include "server/text/chat_template.h"
#include "server/text/template_state.h"

namespace lorica {
namespace {

using jinja::func_args;
using jinja::is_val;
using jinja::mk_val;
using jinja::value;

constexpr int64_t kArgumentMax = int64_t{1} << 31;  // larger integers wrap in the engine's loops
constexpr int64_t kIndentMax = 256;

RenderState& State() { return RenderState::Current(); }

const value& Unnamed(const value& argument) {
  const auto* named = jinja::cast_val<jinja::value_kwarg>(argument);
  return named == nullptr ? argument : named->val;
}

value Range(const func_args& args) {
  std::vector<int64_t> numbers;
  for (const value& argument : args.get_args()) {
    if (!is_val<jinja::value_int>(argument)) State().Stop("range() takes integers");
    numbers.push_back(argument->as_int());
  }
  if (numbers.empty() || numbers.size() > 3) State().Stop("range() takes one to three integers");
  if (numbers.size() == 1) numbers.insert(numbers.begin(), 0);
  const __int128 start = numbers[0], stop = numbers[1];
  const __int128 step = numbers.size() == 3 ? numbers[2] : 1;
  if (step == 0) State().Stop("range() has step 0");
  const __int128 count =
      step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
  if (count > kTemplateRangeMax) {
    State().Stop(absl::StrCat("range() has more than ", kTemplateRangeMax, " items"));
  }
  auto items = mk_val<jinja::value_array>();
  for (__int128 i = 0; i < count; ++i) {
    items->push_back(mk_val<jinja::value_int>(static_cast<int64_t>(start + i * step)));
  }
  return Admit(items, {});
}

// The engine's own asks localtime(), which threads may not share.
value StrftimeNow(const func_args& args) {
  const std::string format = args.get_pos(0)->as_string().str();
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[256];
  const size_t bytes = std::strftime(text, sizeof(text), format.c_str(), &local);
  return mk_val<jinja::value_string>(std::string(text, bytes));
}

value RaiseException(const func_args& args) {
  State().Stop(args.get_pos(0)->as_string().str().substr(0, 1000));
}

value MakeNamespace(const func_args& args) {
  const value object = jinja::global_builtins().at("namespace")(args);
  return std::make_shared<NamespaceValue>(object->val_obj);
}

jinja::func_handler Checked(const char* name, jinja::func_handler run) {
  return [name, run](const func_args& args) {
    return ApplyBuiltin(name, args.get_args(), [&] { return run(args); });
  };
}

int64_t StringBytes(const value& text) { return static_cast<int64_t>(text->val_str.length()); }

std::string PlainText(const value& text) { return text->as_string().str(); }

value LikeSource(const value& source, std::string text) {
  auto out = mk_val<jinja::value_string>(text);
  if (WeighValue(source).has_input) out->val_str.mark_input();
  return out;
}

value Split(const std::vector<value>& values, bool from_right) {
  const std::string text = PlainText(values[0]);
  const std::string separator = values.size() > 1 ? PlainText(Unnamed(values[1])) : " ";
  int64_t cuts = values.size() > 2 ? Unnamed(values[2])->as_int() : -1;
  if (separator.empty()) State().Stop("split() has an empty separator");
  std::vector<value> pieces;
  size_t begin = 0, end = text.size();
  for (; cuts != 0; --cuts) {
    const size_t at = from_right
                          ? (end < separator.size() ? std::string::npos
                                                    : text.rfind(separator, end - separator.size()))
                          : text.find(separator, begin);
    if (at == std::string::npos) break;
    const size_t after = at + separator.size();
    pieces.push_back(LikeSource(
        values[0], from_right ? text.substr(after, end - after) : text.substr(begin, at - begin)));
    (from_right ? end : begin) = from_right ? at : after;
  }
  pieces.push_back(LikeSource(values[0], text.substr(begin, end - begin)));
  if (from_right) std::reverse(pieces.begin(), pieces.end());
  return mk_val<jinja::value_array>(std::move(pieces));
}

value Replace(const std::vector<value>& values) {
  if (values.size() != 3) State().Stop("replace() takes the old and the new text");
  const std::string text = PlainText(values[0]);
  const std::string from = PlainText(Unnamed(values[1])), to = PlainText(Unnamed(values[2]));
  if (from.empty()) State().Stop("replace() has an empty old text");
  std::string out;
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    if (out.size() > kTemplateRenderedBytesMax) State().Stop("replace() makes too much text");
    done = at + from.size();
  }
  return LikeSource(values[0], out.append(text, done));
}

// The result's size follows from the arguments, not from their sizes: checked beforehand.
void CheckGrowth(const std::string& name, const std::vector<value>& values) {
  int64_t factor = 0;
  if (name == "join" && is_val<jinja::value_array>(values[0]) && values.size() > 1) {
    factor = WeighValue(values[1]).bytes * static_cast<int64_t>(values[0]->val_arr.size());
  } else if (name == "indent" && values.size() > 1 && is_val<jinja::value_string>(values[0])) {
    const std::string text = PlainText(values[0]);
    const value& width = Unnamed(values[1]);
    const int64_t bytes = is_val<jinja::value_string>(width) ? StringBytes(width) : kIndentMax;
    factor = bytes * (1 + std::count(text.begin(), text.end(), '\n'));
  }
  State().ChargeBytes(factor);
}

void CheckArguments(const std::string& name, const std::vector<value>& values) {
  const bool indents = name == "indent" || name == "tojson";
  for (size_t i = 1; i < values.size(); ++i) {
    CheckStorable(values[i]);
    const value& argument = Unnamed(values[i]);
    if (is_val<jinja::value_string>(argument) && PlainText(argument) == "divisibleby") {
      State().Stop("it names the test divisibleby, which is not served as an argument");
    }
    if (!is_val<jinja::value_int>(argument)) continue;
    const int64_t limit = indents ? kIndentMax : kArgumentMax;
    if (argument->as_int() > limit || argument->as_int() < (indents ? 0 : -limit)) {
      State().Stop(absl::StrCat("the argument of ", name, " is out of range"));
    }
  }
}

bool LooksAtItemsOnly(const std::string& name) {
  static const auto* const names = new absl::flat_hash_set<std::string>{
      "length",     "count",  "first",      "last",    "list",    "items",
      "keys",       "values", "get",        "map",     "slice",   "select",
      "selectattr", "reject", "rejectattr", "reverse", "default", "d"};
  return names->contains(name);
}

void ChargeOperand(const value& operand, bool items_only) {
  if (!items_only) return State().ChargeBytes(WeighValue(operand).bytes);
  constexpr int64_t kItemBytes = 64;
  const int64_t items = static_cast<int64_t>(operand->val_arr.size() + operand->val_obj.size());
  const bool text = is_val<jinja::value_string>(operand);
  State().ChargeBytes(text ? WeighValue(operand).bytes : items * kItemBytes);
}

bool ComparesValues(const std::string& test) {
  static const auto* const names =
      new absl::flat_hash_set<std::string>{"in", "eq", "equalto", "ne"};
  return names->contains(test);
}

bool IsMutator(const std::string& name) {
  static const auto* const names = new absl::flat_hash_set<std::string>{
      "append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"};
  return names->contains(name);
}

bool IsScalar(const value& side) {
  return !is_val<jinja::value_string>(side) && WeighValue(side).depth == 0;
}

}  // namespace

value GlobalFunction(const std::string& name) {
  static const auto* const functions = new absl::flat_hash_map<std::string, jinja::func_handler>{
      {"range", Range},
      {"strftime_now", StrftimeNow},
      {"raise_exception", RaiseException},
      {"namespace", Checked("namespace", MakeNamespace)},
      {"dict", Checked("dict", jinja::global_builtins().at("dict"))},
      {"tojson", Checked("tojson", jinja::global_builtins().at("tojson"))},
  };
  const auto found = functions->find(name);
  return found == functions->end() ? nullptr : mk_val<jinja::value_func>(name, found->second);
}

value ApplyBuiltin(const std::string& name, const std::vector<value>& values,
                   absl::FunctionRef<value()> engine) {
  if (IsMutator(name) && !is_val<NamespaceValue>(values[0].get())) {
    State().Stop(absl::StrCat("it changes a value with ", name, "()"));
  }
  CheckArguments(name, values);
  for (const value& operand : values) ChargeOperand(operand, LooksAtItemsOnly(name));
  const bool on_text = !values.empty() && is_val<jinja::value_string>(values[0]);
  if (on_text && (name == "split" || name == "rsplit")) {
    return Admit(Split(values, name == "rsplit"), values);
  }
  if (on_text && name == "replace") return Admit(Replace(values), values);
  if (!values.empty()) CheckGrowth(name, values);
  return Admit(engine(), values);
}

void CheckTest(const std::string& name, const std::vector<value>& values) {
  for (const value& operand : values) ChargeOperand(operand, !ComparesValues(name));
  if (name != "divisibleby" || values.size() < 2) return;
  const value& divisor = values[1];
  const bool traps =
      is_val<jinja::value_int>(divisor) && (divisor->as_int() == 0 || divisor->as_int() == -1);
  if (traps) State().Stop("it tests divisibleby 0 or -1");
}

void CheckOperator(const std::string& op, const value& left, const value& right) {
  const bool left_text = is_val<jinja::value_string>(left);
  const bool repeats = op == "*" && left_text != is_val<jinja::value_string>(right);
  if (repeats) {
    const __int128 times = (left_text ? right : left)->as_int();
    const __int128 bytes = times * WeighValue(left_text ? left : right).bytes;
    if (bytes > kTemplateWorkBytesMax) State().Stop("it repeats a text too often");
    if (bytes > 0) State().ChargeBytes(static_cast<int64_t>(bytes));
  }
  if (IsScalar(left) || IsScalar(right)) {
    // Text joined to a number is copied, containers beside a number are not looked at.
    const value& other = IsScalar(left) ? right : left;
    return ChargeOperand(other, !is_val<jinja::value_string>(other) && op != "~" && op != "+" &&
                                    op != "in" && op != "not in");
  }
  ChargeOperand(left, false);
  ChargeOperand(right, false);
}

value Admit(value result, const std::vector<value>& sources) {
  const ValueWeight weight = WeighValue(result);
  ChargeOperand(result, weight.depth > 0);
  if (is_val<jinja::value_string>(result) && StringBytes(result) > kTemplateRenderedBytesMax) {
    State().Stop(
        absl::StrCat("one of its texts has more than ", kTemplateRenderedBytesMax, " bytes"));
  }
  const bool from_input = std::any_of(sources.begin(), sources.end(), [](const value& source) {
    return WeighValue(source).has_input;
  });
  if (from_input && !weight.has_input && is_val<jinja::value_string>(result)) MarkInput(result);
  return result;
}

}  // namespace lorica
