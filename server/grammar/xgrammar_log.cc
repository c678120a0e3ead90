#include "server/grammar/xgrammar_log.h"

#include "support/logging.h"

namespace lorica {
namespace {

thread_local XgrammarWarnings* listener = nullptr;

}  // namespace

XgrammarWarnings::XgrammarWarnings() { listener = this; }

XgrammarWarnings::~XgrammarWarnings() { listener = nullptr; }

void XgrammarWarnings::Add(const std::string& message) {
  if (first_.empty()) first_ = message;
}

}  // namespace lorica

namespace xgrammar {

void LogFatalImpl(const std::string& file, int line, const std::string& message) {
  throw LogFatalError(file, line, message);
}

void LogMessageImpl(const std::string&, int, int, const std::string& message) {
  if (lorica::listener != nullptr) lorica::listener->Add(message);
}

}  // namespace xgrammar
