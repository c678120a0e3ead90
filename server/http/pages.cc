#include "server/http/pages.h"

#include <string>

namespace lorica {
namespace {

// Path to file. "/console" loads "console/console.js", which is beside it wherever a proxy
// puts both.
struct Place {
  const char* path;
  const char* name;
};
constexpr Place kPlaces[] = {{"/openapi.json", "openapi.json"},
                             {"/api-doc/openapi.json", "openapi.json"},
                             {"/docs", "docs.html"},
                             {"/docs/docs.js", "docs.js"},
                             {"/docs/console.css", "console.css"},
                             {"/console", "console.html"},
                             {"/console/console.css", "console.css"},
                             {"/console/console.js", "console.js"},
                             {"/console/plots.js", "plots.js"},
                             {"/console/playground.js", "playground.js"}};

const char* TypeOf(std::string_view name) {
  if (name.ends_with(".json")) return kJsonType;
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  return name.ends_with(".css") ? "text/css; charset=utf-8" : "text/javascript; charset=utf-8";
}

}  // namespace

std::string_view PageText(std::string_view name) {
  for (const Page& page : Pages()) {
    if (page.name == name) return page.text;
  }
  return "";
}

void AddPageRoutes(HttpRoutes* routes) {
  for (const auto& [path, name] : kPlaces) {
    (*routes)[path]["GET"] = [text = PageText(name), type = TypeOf(name)](const HttpRequest&,
                                                                          HttpReply& reply) {
      reply.SetHeader("Content-Security-Policy", kContentSecurity);
      reply.SetHeader("X-Content-Type-Options", "nosniff");
      reply.SetHeader("Referrer-Policy", "no-referrer");
      reply.SetHeader("Cache-Control", "no-cache");
      reply.Send(200, std::string(text), type);
    };
  }
  // What pages load stands beside them, so they have no slash at their end.
  for (const std::string page : {"console", "docs"}) {
    (*routes)["/" + page + "/"]["GET"] = [page](const HttpRequest&, HttpReply& reply) {
      reply.SetHeader("Location", "../" + page);
      reply.Send(308, "");
    };
  }
}

}  // namespace lorica
