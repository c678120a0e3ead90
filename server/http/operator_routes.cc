#include "server/http/operator_routes.h"

#include "server/http/json.h"

namespace lorica {
namespace {

void SendUnhealthy(int status, const char* text, const char* type, HttpReply& reply) {
  OrderedJson body;
  body["error"] = text;
  body["error_type"] = type;
  reply.Send(status, Dump(body));
}

}  // namespace

void AddOperatorRoutes(const HttpContext* context, HttpRoutes* routes) {
  const HttpHandler health = [context](const HttpRequest&, HttpReply& reply) {
    if (context->serving()) return reply.Send(200, "");
    SendUnhealthy(503, "unhealthy: the server starts, drains or has failed", "healthcheck", reply);
  };
  for (const char* path : {"/", "/health", "/ping"}) (*routes)[path]["GET"] = health;
  // It generates before it serves, so serving is the proof.
  (*routes)["/startup"]["GET"] = [context](const HttpRequest&, HttpReply& reply) {
    if (context->serving()) return reply.Send(200, "");
    SendUnhealthy(500, "the first generation has not been made", "failed healthcheck", reply);
  };
}

}  // namespace lorica
