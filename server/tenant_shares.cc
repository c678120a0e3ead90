#include "server/tenant_shares.h"

namespace lorica {

LookLimits LookLimitsOf(const Tenants& tenants) {
  LookLimits limits;
  if (!tenants.needs_keys()) return limits;
  limits.tenant_names_max = kTenantLooksMax;
  limits.tenant_running_max = 1;
  return limits;
}

CatalogLimits CatalogLimitsOf(const Tenants& tenants) {
  CatalogLimits limits;
  if (tenants.needs_keys()) limits.tenant_names_max = kTenantNamesMax;
  return limits;
}

}  // namespace lorica
