#include "server/api/server_tls.h"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/hub/operator_file.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "server/api/tls_context.h"

namespace lorica {
namespace {

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

absl::StatusOr<std::string> ReadPem(const std::string& flag, const std::string& path) {
  auto text = ReadOperatorFile(path, kTlsFileBytesMax);
  if (!text.ok()) {
    return absl::NotFoundError(absl::StrCat(flag, " ", path, " ", text.status().message()));
  }
  if (std::ssize(*text) <= kTlsFileBytesMax) return text;
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " ", path, " is larger than ", kTlsFileBytesMax, " bytes"));
}

Owned<BIO> Memory(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Never asks a terminal for a passphrase.
int NoPassphrase(char*, int, int, void*) { return 0; }

// gRPC reads certificate and key from one text, and finds no key behind a certificate without an
// end; the HTTP face would leave out what is broken, and all that follows it.
absl::Status CheckWhole(const std::string& flag, const std::string& path, const std::string& text) {
  ERR_clear_error();
  const Owned<BIO> bio = Memory(text);
  while (Owned<X509>(PEM_read_bio_X509_AUX(bio.get(), nullptr, NoPassphrase, nullptr)) != nullptr) {
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (at_end) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " ", path, " holds a certificate that is broken or cut short"));
}

absl::Status CheckPair(const TlsPaths& paths, const std::string& cert, const std::string& key) {
  const Owned<X509> leaf(PEM_read_bio_X509_AUX(Memory(cert).get(), nullptr, NoPassphrase, nullptr));
  if (leaf == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls-cert ", paths.cert, " holds no certificate in PEM"));
  }
  if (absl::Status s = CheckWhole("--tls-cert", paths.cert, cert); !s.ok()) return s;
  const Owned<EVP_PKEY> secret(
      PEM_read_bio_PrivateKey(Memory(key).get(), nullptr, NoPassphrase, nullptr));
  if (secret == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls-key ", paths.key, " holds no private key in PEM without passphrase"));
  }
  if (X509_check_private_key(leaf.get(), secret.get()) == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--tls-key ", paths.key, " is not the key of --tls-cert ", paths.cert));
}

absl::Status CheckRoots(const TlsPaths& paths, const std::string& roots) {
  const Owned<X509> first(PEM_read_bio_X509(Memory(roots).get(), nullptr, NoPassphrase, nullptr));
  if (first != nullptr) return CheckWhole("--tls-client-ca", paths.client_ca, roots);
  return absl::InvalidArgumentError(
      absl::StrCat("--tls-client-ca ", paths.client_ca, " holds no certificate in PEM"));
}

// Puts `text` behind the descriptor in one step, so that no reader sees half of it.
absl::Status Replace(const std::string& text, int* fd) {
  const int fresh = memfd_create("lorica-tls", MFD_CLOEXEC);
  const bool written = fresh >= 0 && write(fresh, text.data(), text.size()) == std::ssize(text);
  const bool placed = written && (*fd < 0 || dup3(fresh, *fd, O_CLOEXEC) == *fd);
  if (placed && *fd < 0) {
    *fd = fresh;
  } else if (fresh >= 0) {
    close(fresh);
  }
  return placed ? absl::OkStatus() : absl::UnavailableError("no memory file could be made");
}

std::string PathOf(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

}  // namespace

ServerTls::ServerTls(TlsPaths paths) : paths_(std::move(paths)) {}

ServerTls::~ServerTls() {
  if (identity_fd_ >= 0) close(identity_fd_);
  if (roots_fd_ >= 0) close(roots_fd_);
}

absl::StatusOr<std::unique_ptr<ServerTls>> ServerTls::Read(TlsPaths paths) {
  std::unique_ptr<ServerTls> files(new ServerTls(std::move(paths)));
  if (absl::Status s = files->Reload(); !s.ok()) return s;
  return files;
}

absl::Status ServerTls::Reload() {
  const auto cert = ReadPem("--tls-cert", paths_.cert);
  if (!cert.ok()) return cert.status();
  const auto key = ReadPem("--tls-key", paths_.key);
  if (!key.ok()) return key.status();
  absl::Status status = CheckPair(paths_, *cert, *key);
  absl::StatusOr<std::string> roots = std::string();
  if (status.ok() && !paths_.client_ca.empty()) {
    roots = ReadPem("--tls-client-ca", paths_.client_ca);
    status = roots.ok() ? CheckRoots(paths_, *roots) : roots.status();
  }
  if (!status.ok()) return status;
  auto context = MakeTlsContext({*cert, *key, *roots});
  if (!context.ok()) return context.status();
  absl::MutexLock lock(&mutex_);
  if (!paths_.client_ca.empty()) status = Replace(*roots, &roots_fd_);
  // Both in one file: a reader cannot take the one from before and the other from after.
  if (status.ok()) status = Replace(absl::StrCat(*cert, "\n", *key), &identity_fd_);
  if (status.ok()) context_ = *std::move(context);
  return status;
}

std::shared_ptr<ssl_ctx_st> ServerTls::context() const {
  absl::MutexLock lock(&mutex_);
  return context_;
}

std::shared_ptr<grpc::ServerCredentials> ServerTls::credentials() const {
  using grpc::experimental::FileWatcherCertificateProvider;
  const std::string identity = PathOf(identity_fd_);
  const std::string roots = roots_fd_ < 0 ? "" : PathOf(roots_fd_);
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<FileWatcherCertificateProvider>(identity, identity, roots,
                                                       kTlsRefreshSeconds));
  options.watch_identity_key_cert_pairs();
  if (roots_fd_ >= 0) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace lorica
