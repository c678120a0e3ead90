// How much of what all share one tenant may take. Without keys there is one tenant, and it may
// take all.
#pragma once

#include "adapters/adapter_catalog.h"
#include "adapters/local_looks.h"
#include "server/api/tenants.h"

namespace lorica {

inline constexpr int kTenantLooksMax = kLocalLooksMax / 4;
inline constexpr int kTenantNamesMax = kCatalogNamesMax / 10;

LookLimits LookLimitsOf(const Tenants& tenants);
CatalogLimits CatalogLimitsOf(const Tenants& tenants);

}  // namespace lorica
