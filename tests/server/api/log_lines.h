// What is logged while something runs.
#pragma once

#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"

namespace lorica {

// The messages alone, one element a line. One at a time: it takes the process's logger.
inline std::vector<std::string> LinesOf(const std::function<void()>& work) {
  std::ostringstream log;
  const auto old_logger = spdlog::default_logger();
  auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(log);
  sink->set_pattern("%v");
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", sink));
  work();
  spdlog::set_default_logger(old_logger);
  std::vector<std::string> lines = absl::StrSplit(log.str(), '\n');
  lines.pop_back();  // what comes after the last end of line
  return lines;
}

}  // namespace lorica
