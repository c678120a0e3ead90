// What xgrammar says while a grammar is compiled: it warns where it leaves out a part of a schema.
#pragma once

#include <string>

namespace lorica {

// Hears the warnings of this thread, one at a time, while it lives.
class XgrammarWarnings {
 public:
  XgrammarWarnings();
  ~XgrammarWarnings();
  XgrammarWarnings(const XgrammarWarnings&) = delete;
  XgrammarWarnings& operator=(const XgrammarWarnings&) = delete;

  void Add(const std::string& message);
  const std::string& first() const { return first_; }  // empty: none

 private:
  std::string first_;
};

}  // namespace lorica
