// Certificates made on the spot, with whatever is wrong with them.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/fakes/wire_server.h"

namespace lorica {

// Who signs a certificate, and whether it may sign others.
struct CertificateKind {
  std::string issuer;  // the name of one in the same folder; empty: it is self-signed
  bool authority = true;
};

// One in folder/name.pem and folder/name.key, for the address 127.0.0.1 or for a DNS name, valid
// from a day before now until `valid_until`.
TlsFiles MakeCertificate(const TemporaryFolder& folder, const std::string& name,
                         const std::string& host, absl::Time valid_until,
                         const CertificateKind& kind = {});

}  // namespace lorica
