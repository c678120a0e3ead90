#include "server/api/tls_context.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

constexpr unsigned char kProtocols[] = "\x08http/1.1";

Owned<BIO> Memory(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

int NoPassphrase(char*, int, int, void*) { return 0; }

Owned<X509> Next(BIO* bio) {
  return Owned<X509>(PEM_read_bio_X509(bio, nullptr, NoPassphrase, nullptr));
}

int Choose(SSL*, const unsigned char** chosen, unsigned char* chosen_bytes,
           const unsigned char* offered, unsigned offered_bytes, void*) {
  unsigned char* found = nullptr;
  const int result = SSL_select_next_proto(&found, chosen_bytes, kProtocols, sizeof kProtocols - 1,
                                           offered, offered_bytes);
  *chosen = found;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

bool UseChain(SSL_CTX* context, const std::string& cert) {
  const Owned<BIO> chain = Memory(cert);
  const Owned<X509> leaf = Next(chain.get());
  if (leaf == nullptr || SSL_CTX_use_certificate(context, leaf.get()) != 1) return false;
  while (const Owned<X509> above = Next(chain.get())) {
    if (SSL_CTX_add1_chain_cert(context, above.get()) != 1) return false;
  }
  return true;
}

bool UseKey(SSL_CTX* context, const std::string& key) {
  const Owned<EVP_PKEY> secret(
      PEM_read_bio_PrivateKey(Memory(key).get(), nullptr, NoPassphrase, nullptr));
  return secret != nullptr && SSL_CTX_use_PrivateKey(context, secret.get()) == 1;
}

bool AskClients(SSL_CTX* context, const std::string& authorities) {
  const Owned<BIO> bio = Memory(authorities);
  X509_STORE_set_flags(SSL_CTX_get_cert_store(context), X509_V_FLAG_PARTIAL_CHAIN);
  int count = 0;
  while (const Owned<X509> authority = Next(bio.get())) {
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.get()) != 1 ||
        SSL_CTX_add_client_CA(context, authority.get()) != 1) {
      return false;
    }
    ++count;
  }
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return count > 0;
}

}  // namespace

absl::StatusOr<std::shared_ptr<ssl_ctx_st>> MakeTlsContext(const TlsTexts& texts) {
  const std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  // Else one read goes on for as long as a peer sends new keys, whatever time it was given.
  SSL_CTX_clear_mode(context.get(), SSL_MODE_AUTO_RETRY);
  SSL_CTX_set_alpn_select_cb(context.get(), Choose, nullptr);
  ERR_clear_error();
  const bool usable = UseChain(context.get(), texts.cert) && UseKey(context.get(), texts.key) &&
                      (texts.client_ca.empty() || AskClients(context.get(), texts.client_ca));
  const char* const reason = ERR_reason_error_string(ERR_peek_error());
  const std::string why = reason == nullptr ? "it does not say why" : reason;
  ERR_clear_error();
  if (usable) return context;
  return absl::InvalidArgumentError(
      absl::StrCat("OpenSSL does not take the TLS files (", why, ")"));
}

}  // namespace lorica
