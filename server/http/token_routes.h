// Text to tokens and back, as clients of LoRAX and of vLLM ask for it.
//
// Paths: POST /tokenize (LoRAX's by its member `inputs`, vLLM's by `prompt` or `messages`),
// POST /detokenize. An adapter's tokens are its base model's.
#pragma once

#include "server/http/generation.h"
#include "server/http/transport.h"

namespace lorica {

// `context` outlives the routes.
void AddTokenRoutes(const HttpContext* context, HttpRoutes* routes);

}  // namespace lorica
