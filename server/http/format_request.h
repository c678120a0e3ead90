// "response_format" of a request, as LoRAX's and as OpenAI's clients send it.
//
// Both name a type and give a JSON schema, in other places. Where no schema is given, any JSON
// object will do. Both take {"type": "regex", "regex": "..."} and {"type": "grammar",
// "grammar": "..."} besides, as the gRPC message has them. Pure functions; what is at fault goes
// into the fields' status.
#pragma once

#include <optional>
#include <string_view>

#include "server/grammar/response_format.h"
#include "server/http/fields.h"

namespace lorica {

// `body` is the request as it was sent: a schema's properties keep their order.
// Of "parameters": {"type": "json_object", "schema": {...}}; "text" is no format.
std::optional<ResponseFormat> ReadLoraxFormat(Fields& parameters, std::string_view body);
// {"type": "json_schema", "json_schema": {"schema": {...}}}, and LoRAX's form, too; and vLLM's
// guided_json, guided_regex, guided_grammar and guided_choice, or "structured_outputs" with json,
// regex, grammar or choice. At most one.
std::optional<ResponseFormat> ReadOpenAiFormat(Fields& request, std::string_view body);

}  // namespace lorica
