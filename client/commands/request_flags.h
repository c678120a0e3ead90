// The flags that describe one generation, shared by `generate` and `chat`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lorica/v1/inference.pb.h"

namespace lorica {

// What was on the command line; absent = the server's default, which proto/lorica/v1
// writes beside each field.
struct RequestFlags {
  std::string adapter;
  std::string mix;
  std::string hub_token_file;
  std::optional<int32_t> max_tokens;
  std::optional<double> temperature;
  std::optional<int32_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;  // "ID=BIAS"
  std::optional<int32_t> logprobs;
  std::optional<int32_t> prompt_logprobs;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool keep_special_tokens = false;
  bool json_object = false;
  std::string json_schema;  // name of a file
  std::string regex;
  std::string ebnf;  // name of a file
};

// Declares the flags on `app`; `flags` must live as long as `app`.
void AddRequestFlags(CLI::App* app, RequestFlags* flags);

// Everything but the input. InvalidArgument names the flag at fault.
absl::StatusOr<v1::GenerateRequest> RequestFromFlags(const RequestFlags& flags);

// What a server takes of a schema or grammar.
inline constexpr size_t kFormatFileBytesMax = 64 << 10;

// The text of a schema or grammar; never empty.
absl::StatusOr<std::string> ReadFormatFile(const std::string& name);

// "a=0.7,b=0.3" or "a,b" (a missing weight is 1). InvalidArgument shows `example`.
absl::StatusOr<std::vector<v1::AdapterWeight>> ParseMix(absl::string_view text,
                                                        absl::string_view example = "a=0.7,b=0.3");

// "50=-100"
absl::StatusOr<v1::LogitBias> ParseLogitBias(absl::string_view text);

// "1,2,3"
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text);

}  // namespace lorica
