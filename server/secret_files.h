// What nobody else should read: the hub's tokens, keys of buckets, of TLS and of tenants.
#pragma once

#include "absl/status/status.h"
#include "server/api/tenants.h"
#include "server/config.h"

namespace lorica {

// Logs a warning for each that the group or everybody may read.
void WarnOfOpenSecrets(const Config& config, const Tenants& tenants);

// Logs a warning where keys are asked for beyond this machine and nothing encrypts them.
void WarnOfKeysInTheClear(const Config& config, const Tenants& tenants);

// What is wrong with either, or both in one sentence after the other.
absl::Status BothOf(const absl::Status& one, const absl::Status& other);

}  // namespace lorica
