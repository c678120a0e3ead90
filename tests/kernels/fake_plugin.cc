// A plugin whose device never answers.
#include "kernels/plugin.h"

extern "C" {
extern const char LoricaBackendInterface[] = INTERFACE;

lorica::Backend* LoricaMakeBackend(const lorica::BackendOptions*, absl::Status* error) {
  *error = absl::FailedPreconditionError("the device does not answer");
  return nullptr;
}
}
