// Prints a streamed answer on stdout as it comes, and what it cost on stderr.
#pragma once

#include <string>

#include "lorica/v1/inference.pb.h"

namespace lorica {

// For one answer. Not thread-safe.
class AnswerPrinter {
 public:
  // Without `print` it only gathers.
  explicit AnswerPrinter(bool print = true) : print_(print) {}

  void Add(const v1::GenerateStreamResponse& chunk);
  // Ends the line that the answer stands on, if it has one.
  void EndLine();
  // "eos · 12 + 42 tokens · 38.1 tok/s · first token 120 ms · ticket-triage@1a2b3c4d"
  void PrintStats() const;

  // What came so far, as Generate would have returned it.
  const v1::GenerateResponse& response() const { return response_; }

 private:
  const bool print_;
  v1::GenerateResponse response_;
};

// "base", "ticket-triage@1a2b3c4d" or "mix of a ×0.7 + b ×0.3".
std::string DescribeAdapter(const v1::AdapterUsed& used);

}  // namespace lorica
