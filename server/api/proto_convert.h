// lorica/v1 messages to the gateway's plain structs and back.
//
// The only place that knows both; no checks here beyond what the types demand. Pure
// functions.
#pragma once

#include <optional>
#include <vector>

#include "lorica/v1/inference.pb.h"
#include "server/api/gateway.h"

namespace lorica {

GenerateCall ToCall(const v1::GenerateRequest& request);
std::vector<ChatTurn> ToTurns(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages);

// Appends tokens, text and, if `with_logprobs`, log-probabilities. Message is
// GenerateResponse or GenerateStreamResponse.
template <typename Message>
void AppendChunk(const AnswerChunk& chunk, bool with_logprobs, Message* message);

// Fills finish_reason, adapter, usage and timings. Message is GenerateResponse or StreamFinish.
template <typename Message>
void FillEnd(const AnswerEnd& end, Message* message);

}  // namespace lorica
