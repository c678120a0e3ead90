// What a server makes of the public examples of the tasks that the demo adapters were trained on.
#pragma once

#include <string>
#include <vector>

#include "tests/integration/server_process.h"

namespace lorica {

struct TaskScore {
  std::string adapter;
  int right = 0;  // exact answers, spaces at the ends apart
  int total = 0;
  double trained = 0;  // the share of exact answers in bf16 at the end of its training
  double share() const { return static_cast<double>(right) / total; }
};

// All tasks through the chat template, mixed in one batch. An adapter that `adapters_dir`
// lacks is left out.
std::vector<TaskScore> ScoreTasks(const ServerProcess& server, const std::string& adapters_dir);

}  // namespace lorica
