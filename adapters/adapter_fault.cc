#include "adapters/adapter_fault.h"

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace lorica {
namespace {

constexpr absl::string_view kFaultPayload = "lorica/adapter-fault";

}  // namespace

absl::Status AdapterFault(absl::Status status) {
  if (!status.ok()) status.SetPayload(kFaultPayload, absl::Cord("1"));
  return status;
}

bool IsAdapterFault(const absl::Status& status) {
  return status.GetPayload(kFaultPayload).has_value();
}

}  // namespace lorica
