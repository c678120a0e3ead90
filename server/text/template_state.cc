#include "server/text/template_state.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/text/chat_template.h"

namespace lorica {
namespace {

constexpr int64_t kPartBytes = 64;  // what an item of a container or string costs beside its text

thread_local RenderState* current_state = nullptr;

ValueWeight WeighString(const jinja::string& text) {
  ValueWeight weight{.bytes = kPartBytes};
  for (const auto& part : text.parts) {
    weight.bytes += kPartBytes + static_cast<int64_t>(part.val.size());
    weight.has_input = weight.has_input || part.is_input;
  }
  return weight;
}

void AddChild(const jinja::value& child, ValueWeight* weight) {
  CheckStorable(child);
  const ValueWeight inner = WeighValue(child);
  weight->bytes += kPartBytes + inner.bytes;
  weight->depth = std::max(weight->depth, inner.depth + 1);
  weight->has_input = weight->has_input || inner.has_input;
  auto& state = RenderState::Current();
  if (weight->depth > kTemplateValueDepthMax) state.Stop("its values are nested too deeply");
  if (weight->bytes > kTemplateWorkBytesMax) state.Stop("one of its values is too large");
}

ValueWeight WeighContainer(const jinja::value& value) {
  ValueWeight weight{.bytes = kPartBytes, .depth = 1};
  for (const auto& item : value->val_arr) AddChild(item, &weight);
  for (const auto& [key, item] : value->val_obj) {
    AddChild(key, &weight);
    AddChild(item, &weight);
  }
  return weight;
}

bool IsContainer(const jinja::value& value) {
  return jinja::is_val<jinja::value_array>(value) || jinja::is_val<jinja::value_object>(value);
}

}  // namespace

RenderState::RenderState() { current_state = this; }
RenderState::~RenderState() { current_state = nullptr; }
RenderState& RenderState::Current() { return *current_state; }

RenderState::Frame::Frame() {
  auto& state = RenderState::Current();
  if (state.depth_ >= kTemplateRunDepthMax) state.Stop("its macros call each other too deeply");
  ++state.depth_;
}

void RenderState::ChargeSteps(int64_t steps) {
  steps_ += steps;
  if (steps_ > kTemplateStepsMax) {
    Stop(absl::StrCat("it takes more than ", kTemplateStepsMax, " steps"));
  }
}

void RenderState::ChargeBytes(int64_t bytes) {
  bytes_ += bytes;
  if (bytes_ > kTemplateWorkBytesMax) {
    Stop(absl::StrCat("it works through more than ", kTemplateWorkBytesMax, " bytes of values"));
  }
}

void RenderState::Stop(const std::string& reason) {
  status_ = absl::InvalidArgumentError(
      absl::StrCat("the chat template cannot render these messages: ", reason));
  throw TemplateStopped(reason);
}

// The engine leaves the number fields of containers alone; they keep the weight.
ValueWeight WeighValue(const jinja::value& value) {
  if (jinja::is_val<jinja::value_string>(value)) return WeighString(value->val_str);
  if (const auto* named = jinja::cast_val<jinja::value_kwarg>(value)) return WeighValue(named->val);
  if (!IsContainer(value)) return {.bytes = kPartBytes};
  constexpr int64_t kInputBit = 1 << 16;
  if (value->stats.used) {
    return {static_cast<int64_t>(value->val_flt), static_cast<int>(value->val_int % kInputBit),
            value->val_int >= kInputBit};
  }
  const ValueWeight weight = WeighContainer(value);
  if (jinja::is_val<NamespaceValue>(value.get())) return weight;
  value->stats.used = true;
  value->val_flt = static_cast<double>(weight.bytes);
  value->val_int = weight.depth + (weight.has_input ? kInputBit : 0);
  return weight;
}

void CheckStorable(const jinja::value& value) {
  const auto* named = jinja::cast_val<jinja::value_kwarg>(value);
  const jinja::value& held = named == nullptr ? value : named->val;
  if (jinja::is_val<NamespaceValue>(held.get()) || jinja::is_val<jinja::value_func>(held)) {
    RenderState::Current().Stop("it stores a namespace or a function inside another value");
  }
}

void MarkInput(const jinja::value& value) {
  value->val_str.mark_input();
  for (const auto& item : value->val_arr) MarkInput(item);
}

}  // namespace lorica
