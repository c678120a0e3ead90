// Files of the tree that the server hands out as they are: the console, the document of its
// own HTTP interface.
//
// They are compiled in, so that there is nothing to install beside the program. Immutable,
// valid for the program's life.
#pragma once

#include <string_view>

#include "absl/types/span.h"
#include "server/http/transport.h"

namespace lorica {

struct Page {
  std::string_view name;  // of the file in server/http/pages/
  std::string_view text;
};
absl::Span<const Page> Pages();
// Its text; empty: there is none of that name.
std::string_view PageText(std::string_view name);

// What a page may do in a browser: load its own files, call this server, nothing else.
inline constexpr char kContentSecurity[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

// /openapi.json, /docs and /console with what they load. Without keys: they hold no data.
void AddPageRoutes(HttpRoutes* routes);

}  // namespace lorica
