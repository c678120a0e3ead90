// OpenAI's routes: models, completions, chat completions. An adapter is a model.
//
// Paths: GET /v1/models, /v1/models/ID; POST /v1/completions, /v1/chat/completions.
#pragma once

#include "server/http/generation.h"
#include "server/http/transport.h"

namespace lorica {

// Adapters that /v1/models lists; where there are more it says so (`has_more`).
inline constexpr int kListedModelsMax = 10'000;

// `context` outlives the routes.
void AddOpenAiRoutes(const HttpContext* context, HttpRoutes* routes);

}  // namespace lorica
