// OpenSSL's context of a server from PEM texts: for faces that speak TLS by themselves.
//
// TLS 1.2 and newer, HTTP/1.1 as the only protocol that is agreed on, no resumption: so a
// connection is always judged by the authorities of now. Pure function.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct ssl_ctx_st;

namespace lorica {

struct TlsTexts {
  std::string cert;       // the chain, the server's own first
  std::string key;        // without a passphrase
  // Not empty: clients need a certificate of one of these. As in gRPC each is trusted for itself,
  // whoever signed it: so clients may show one of these themselves.
  std::string client_ca;
};

// InvalidArgument: OpenSSL does not take them.
absl::StatusOr<std::shared_ptr<ssl_ctx_st>> MakeTlsContext(const TlsTexts& texts);

}  // namespace lorica
