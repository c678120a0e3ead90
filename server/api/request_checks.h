// The checks of a call that need nothing but the call: ids, ranges, sizes, UTF-8.
//
// Pure functions, in the order from cheap to dear; each refusal is a FieldError that
// names the field and says what it may be.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/api/gateway.h"

namespace lorica {

// A token as it may be sent to a hub; empty is none. The text never quotes it.
absl::Status CheckHubToken(const std::string& token);
// Field ranges, list sizes, exactly one input, UTF-8.
absl::Status CheckFields(const GenerateCall& call, const GatewayLimits& limits);

// Whether the prompt is short enough for the log-probabilities that are asked for.
absl::Status CheckPromptLogprobs(const GenerateCall& call, int64_t prompt_tokens);

// prompt or messages (one of them), their sizes and their UTF-8.
absl::Status CheckText(const std::optional<std::string>& prompt,
                       absl::Span<const ChatTurn> messages);

// InvalidArgument: not of the form s3://bucket/name or https://host/name. Whether adapters may be
// fetched from there is the catalog's to say.
absl::Status CheckPlace(const std::string& location);

// What is given a name, and what it is made of, in `field` of a request that moves adapters.
// InvalidArgument: it is missing or cannot be an adapter's id; it can be neither an id nor a place.
absl::Status CheckNamed(absl::string_view field, const std::string& adapter_id);
absl::Status CheckSource(absl::string_view field, const std::string& source);

// The generation that a name is expected to be at. InvalidArgument: it is neither empty nor 8 to 64
// digits of one, and no name could ever be there.
absl::Status CheckExpectedGeneration(const std::string& generation);

// The adapters a call names, headers and fields brought together, in order; empty = base.
// Grammar, conflicts, weights and doubles are checked; a weight of 0 stays in the list.
absl::StatusOr<std::vector<AdapterChoice>> ChooseAdapters(const GenerateCall& call,
                                                          const std::string& base_name);

// REQUIRES: CheckFields passed. `seed` is used when the call has none.
SampleParams ToSampleParams(const GenerateCall& call, uint64_t seed);
std::vector<TokenBias> ToTokenBias(const GenerateCall& call);

}  // namespace lorica
