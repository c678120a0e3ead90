#include "server/tenant_shares.h"

#include <gtest/gtest.h>

#include <string>

namespace lorica {
namespace {

TEST(TenantShares, OneTenantMayTakeAll) {
  const Tenants tenants;
  EXPECT_EQ(LookLimitsOf(tenants).tenant_names_max, LookLimitsOf(tenants).names_max);
  EXPECT_EQ(CatalogLimitsOf(tenants).tenant_names_max, CatalogLimitsOf(tenants).names_max);
}

TEST(TenantShares, WithKeysEachMayTakeAPart) {
  Tenants tenants;
  const std::string keys = R"("keys": [")" + std::string(64, 'a') + R"("])";
  const absl::Status loaded =
      tenants.Load(R"({"tenants": [{"name": "acme", "adapters": ["*"], )" + keys + "}]}");
  ASSERT_TRUE(loaded.ok()) << loaded;
  EXPECT_EQ(LookLimitsOf(tenants).tenant_names_max, LookLimitsOf(tenants).names_max / 4);
  EXPECT_EQ(LookLimitsOf(tenants).tenant_running_max, 1);
  EXPECT_EQ(CatalogLimitsOf(tenants).names_max, 1'000'000);
  EXPECT_EQ(CatalogLimitsOf(tenants).tenant_names_max, 100'000);
}

}  // namespace
}  // namespace lorica
