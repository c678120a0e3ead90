#include "tests/fakes/made_certificate.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cctype>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"

namespace lorica {
namespace {

using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

std::string PathOf(const TemporaryFolder& folder, const std::string& file) {
  return absl::StrCat(folder.path(), "/", file);
}

void AddName(X509_NAME* to, const std::string& name) {
  X509_NAME_add_entry_by_txt(to, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
}

// As the issuer's files have both.
void SignBy(const TemporaryFolder& folder, const std::string& issuer, X509* certificate) {
  std::FILE* file = std::fopen(PathOf(folder, issuer + ".pem").c_str(), "r");
  const Certificate above(PEM_read_X509(file, nullptr, nullptr, nullptr), &X509_free);
  std::fclose(file);
  file = std::fopen(PathOf(folder, issuer + ".key").c_str(), "r");
  const Key key(PEM_read_PrivateKey(file, nullptr, nullptr, nullptr), &EVP_PKEY_free);
  std::fclose(file);
  X509_set_issuer_name(certificate, X509_get_subject_name(above.get()));
  X509_sign(certificate, key.get(), EVP_sha256());
}

}  // namespace

TlsFiles MakeCertificate(const TemporaryFolder& folder, const std::string& name,
                         const std::string& host, absl::Time valid_until,
                         const CertificateKind& kind) {
  const Key key(EVP_EC_gen("P-256"), &EVP_PKEY_free);
  const Certificate certificate(X509_new(), &X509_free);
  X509_set_version(certificate.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -24 * 3600);
  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), absl::ToTimeT(valid_until));
  X509_set_pubkey(certificate.get(), key.get());
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  AddName(subject, name);
  X509_set_issuer_name(certificate.get(), subject);
  const bool numeric = std::isdigit(static_cast<unsigned char>(host[0])) != 0;
  const std::string alternative = absl::StrCat(numeric ? "IP:" : "DNS:", host);
  for (const auto& [extension, value] :
       {std::pair<int, std::string>{NID_subject_alt_name, alternative},
        {NID_basic_constraints, kind.authority ? "critical,CA:TRUE" : "critical,CA:FALSE"}}) {
    X509_EXTENSION* added = X509V3_EXT_conf_nid(nullptr, nullptr, extension, value.c_str());
    X509_add_ext(certificate.get(), added, -1);
    X509_EXTENSION_free(added);
  }
  if (kind.issuer.empty()) {
    X509_sign(certificate.get(), key.get(), EVP_sha256());
  } else {
    SignBy(folder, kind.issuer, certificate.get());
  }
  const TlsFiles files = {PathOf(folder, name + ".pem"), PathOf(folder, name + ".key")};
  std::FILE* file = std::fopen(files.certificate.c_str(), "w");
  PEM_write_X509(file, certificate.get());
  std::fclose(file);
  file = std::fopen(files.key.c_str(), "w");
  PEM_write_PrivateKey(file, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  return files;
}

}  // namespace lorica
