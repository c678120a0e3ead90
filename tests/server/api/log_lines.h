// What is logged while something runs.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "spdlog/sinks/base_sink.h"
#include "spdlog/spdlog.h"

namespace lorica {

// Another place where the process's logger writes to, from before main on: a server's threads log
// whenever they like, so it is never exchanged.
class LogText final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  static LogText& Installed() {
    static const std::shared_ptr<LogText> text = [] {
      auto made = std::make_shared<LogText>();
      const auto before = spdlog::default_logger();
      auto logger = std::make_shared<spdlog::logger>(*before);
      logger->sinks().push_back(made);
      spdlog::set_default_logger(std::move(logger));
      return made;
    }();
    return *text;
  }
  // What came since the last one.
  std::string Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(text_, "");
  }

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    absl::StrAppend(&text_, absl::string_view(message.payload.data(), message.payload.size()),
                    "\n");
  }
  void flush_() override {}

 private:
  std::string text_;
};

inline LogText& g_log_text = LogText::Installed();

// The messages alone, one element a line. One at a time.
inline std::vector<std::string> LinesOf(const std::function<void()>& work) {
  g_log_text.Take();
  work();
  std::vector<std::string> lines = absl::StrSplit(g_log_text.Take(), '\n');
  lines.pop_back();  // what comes after the last end of line
  return lines;
}

}  // namespace lorica
