// What balancers and monitors ask: is it alive, does it start, how is it doing.
//
// Paths: GET /, /health, /ping, /startup, /metrics, /version. None needs a key; where keys are
// needed, metrics name adapters to operators alone.
#pragma once

#include "server/http/generation.h"
#include "server/http/metrics.h"
#include "server/http/transport.h"

namespace lorica {

// `context` and `metrics` outlive the routes.
void AddOperatorRoutes(const HttpContext* context, Metrics* metrics, HttpRoutes* routes);

}  // namespace lorica
