// The services for operators over HTTP: POST /lorica.v1.AdapterService/ListAdapters and so
// on, with the request message as JSON.
//
// Nothing is done here a second time: each call is passed on, with its key, to the gRPC
// services of this process. Field names are those of proto/lorica/v1; 64-bit numbers are
// strings, as in every JSON of Protobuf. Streams are left out.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "server/http/generation.h"
#include "server/http/transport.h"

namespace lorica {

// A little more than AdapterService itself waits.
inline constexpr absl::Duration kAdminWait = absl::Seconds(65);

// `services`: the way to them; kept by the routes. `context` outlives them.
void AddAdminRoutes(const HttpContext* context, std::shared_ptr<grpc::Channel> services,
                    HttpRoutes* routes);

}  // namespace lorica
