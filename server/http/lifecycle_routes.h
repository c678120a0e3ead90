// The calls by which controllers move adapters: vLLM's pair, and SGLang's names for it.
//
// Paths: POST /v1/load_lora_adapter, /v1/unload_lora_adapter, /load_lora_adapter,
// /unload_lora_adapter. Both are idempotent: the same name with the same content is loaded
// already. A load answers once the adapter can be used, or after kLifecycleWait that it is
// still on its way, while it goes on.
#pragma once

#include "server/http/generation.h"
#include "server/http/transport.h"

namespace lorica {

inline constexpr absl::Duration kLifecycleWait = absl::Seconds(20);

// `context` outlives the routes.
void AddLifecycleRoutes(const HttpContext* context, HttpRoutes* routes);

}  // namespace lorica
