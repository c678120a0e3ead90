// LoRAX's native routes: generate, stream, what is served.
//
// Paths: POST /, /invocations, /generate, /generate_stream; GET /info.
#pragma once

#include "server/http/generation.h"
#include "server/http/transport.h"

namespace lorica {

// `context` outlives the routes.
void AddLoraxRoutes(const HttpContext* context, HttpRoutes* routes);

}  // namespace lorica
