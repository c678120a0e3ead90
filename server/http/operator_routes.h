// What balancers and monitors ask: is it alive, does it start, how is it doing.
//
// Paths: GET /, /health, /ping, /startup. None needs a key.
#pragma once

#include "server/http/generation.h"
#include "server/http/transport.h"

namespace lorica {

// `context` outlives the routes.
void AddOperatorRoutes(const HttpContext* context, HttpRoutes* routes);

}  // namespace lorica
