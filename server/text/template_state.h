// What one rendering of a chat template may still spend, and what its values weigh.
//
// The Jinja engine itself has no limits. Every node that runs, and every value that an
// operation reads or makes, is charged here; beyond a limit TemplateLimit is thrown,
// which the renderer turns into a status. One state per rendering, found through the
// thread that renders. Includes headers of the engine: private to this folder.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "absl/status/status.h"
#include "jinja/value.h"

namespace lorica {

inline constexpr int kTemplateRunDepthMax = 400;   // nodes that run inside each other
inline constexpr int kTemplateValueDepthMax = 64;  // arrays and objects inside each other

// Thrown through the engine, which may replace it by another exception; what counts is
// the status left in the state.
struct TemplateStopped : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// How large a value is when every part of it is written out.
struct ValueWeight {
  int64_t bytes = 0;
  int depth = 0;           // 0: no container
  bool has_input = false;  // holds text of a message
};

class RenderState {
 public:
  // Becomes the state of this thread until destroyed. They do not nest.
  RenderState();
  ~RenderState();
  RenderState(const RenderState&) = delete;
  static RenderState& Current();

  void ChargeSteps(int64_t steps);
  void ChargeBytes(int64_t bytes);
  // Ends the rendering with InvalidArgument.
  [[noreturn]] void Stop(const std::string& reason);
  const absl::Status& status() const { return status_; }

  // A frame of the engine's recursion.
  class Frame {
   public:
    Frame();
    ~Frame() { --RenderState::Current().depth_; }
    Frame(const Frame&) = delete;
  };

 private:
  int64_t steps_ = 0;
  int64_t bytes_ = 0;
  int depth_ = 0;
  absl::Status status_;
};

// A namespace() object: the only value that a template may change. It is never part of
// another container, so that containers stay trees of known size.
struct NamespaceValue : jinja::value_object_t {
  using jinja::value_object_t::value_object_t;
};

// Weighs a value; containers remember the answer. Stops the rendering at one that is too
// deep, too large, or holds what may not be stored.
ValueWeight WeighValue(const jinja::value& value);

// Stops the rendering if `value` is a namespace or a function.
void CheckStorable(const jinja::value& value);

// Marks all text of a string, and of the strings in an array, as coming from a message.
void MarkInput(const jinja::value& value);

}  // namespace lorica
