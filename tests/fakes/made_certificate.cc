#include "tests/fakes/made_certificate.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cctype>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"

namespace lorica {

TlsFiles MakeCertificate(const TemporaryFolder& folder, const std::string& name,
                         const std::string& host, absl::Time valid_until) {
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(EVP_EC_gen("P-256"),
                                                                &EVP_PKEY_free);
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(X509_new(), &X509_free);
  X509_set_version(certificate.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -24 * 3600);
  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), absl::ToTimeT(valid_until));
  X509_set_pubkey(certificate.get(), key.get());
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(host.c_str()), -1, -1, 0);
  X509_set_issuer_name(certificate.get(), subject);
  const bool numeric = std::isdigit(static_cast<unsigned char>(host[0])) != 0;
  const std::string alternative = absl::StrCat(numeric ? "IP:" : "DNS:", host);
  for (const auto& [extension, value] :
       {std::pair<int, std::string>{NID_subject_alt_name, alternative},
        {NID_basic_constraints, "critical,CA:TRUE"}}) {
    X509_EXTENSION* added = X509V3_EXT_conf_nid(nullptr, nullptr, extension, value.c_str());
    X509_add_ext(certificate.get(), added, -1);
    X509_EXTENSION_free(added);
  }
  X509_sign(certificate.get(), key.get(), EVP_sha256());
  const TlsFiles files = {folder.path() + "/" + name + ".pem", folder.path() + "/" + name + ".key"};
  std::FILE* file = std::fopen(files.certificate.c_str(), "w");
  PEM_write_X509(file, certificate.get());
  std::fclose(file);
  file = std::fopen(files.key.c_str(), "w");
  PEM_write_PrivateKey(file, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
  return files;
}

}  // namespace lorica
