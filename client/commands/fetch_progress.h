// A bar for calls that make a server fetch an adapter: how much of it is there, how fast, how long.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "client/commands/command.h"

namespace lorica {

// What a bar says of a fetch, from what the server said of it again and again.
class FetchProgress {
 public:
  // A total of 0: nothing is being fetched, or nobody knows yet.
  void Saw(int64_t bytes, int64_t total, absl::Time now);
  // Of the whole, from 0 to 1; below zero while it is not known.
  double fraction() const;
  // "12.0 MiB of 40.0 MiB, 3.0 MiB/s, 9.3 s left"; what is not known is left out.
  std::string note() const;

 private:
  int64_t bytes_ = 0;
  int64_t total_ = 0;
  int64_t first_bytes_ = 0;
  absl::Time first_;
  absl::Time last_;
};

// What is fetched: an adapter's id, or a place one is registered from; and the caller's own token
// for the hub: the server says nothing without it of what it brings.
struct Fetched {
  std::string place;
  std::string hub_token;
};

// Runs `call`, which fetches `fetched`. Where stderr is a terminal, another thread asks the
// server meanwhile how far that is and draws it behind `label`.
void WithFetchProgress(const CommandContext& context, const std::string& label,
                       const Fetched& fetched, const std::function<void()>& call);

// The same for what the server cannot say how far it is: how long it has taken, and `what`.
void WithWaiting(const std::string& label, const std::string& what,
                 const std::function<void()>& call);

}  // namespace lorica
