#include "server/api/tenants.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "adapters/sha256.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/field_error.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

std::string HashOf(const std::string& key) {
  Sha256 hash;
  hash.Update(key);
  return hash.Finish();
}

std::string File(const std::string& tenants) {
  return absl::StrCat("{\"tenants\": [", tenants, "]}");
}

// {"name": NAME, "keys": [hash of KEY], "adapters": ["*"] MORE}
std::string Entry(const std::string& name, const std::string& key, const std::string& more = "") {
  return absl::StrCat("{\"name\": \"", name, "\", \"keys\": [\"", HashOf(key),
                      "\"], \"adapters\": [\"*\"]", more, "}");
}

Credentials Bearer(const std::string& key) { return {{absl::StrCat("Bearer ", key)}, {}}; }

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

std::string Who(const Tenants& tenants, const Credentials& credentials) {
  const auto tenant = tenants.Authenticate(credentials, kNow);
  return tenant.ok() ? (*tenant)->name : absl::StatusCodeToString(tenant.status().code());
}

TEST(TenantsTest, WithoutAFileEverybodyIsTheDefaultTenantAndMayAll) {
  Tenants tenants;
  EXPECT_FALSE(tenants.needs_keys());
  for (const Credentials& shown : {Credentials{}, Bearer("x"), Credentials{{"", "a"}, {"b"}}}) {
    const auto tenant = tenants.Authenticate(shown, kNow);
    ASSERT_TRUE(tenant.ok()) << tenant.status();
    EXPECT_EQ((*tenant)->name, kDefaultTenant);
    EXPECT_TRUE(CheckRole(**tenant, TenantRole::kOperator).ok());
    EXPECT_TRUE((*tenant)->MayUse("anything"));
  }
}

TEST(TenantsTest, AHubTokenIsReadAnewForEachLook) {
  TemporaryFolder folder;
  folder.Write("token", "hf_first\n");
  const std::string field = absl::StrCat(", \"hub_token_file\": \"", folder.path(), "/token\"");
  Tenants tenants;
  EXPECT_EQ(tenants.HubTokenOf(kDefaultTenant).value(), "");
  ASSERT_TRUE(
      tenants.Load(File(Entry("a", "key-of-a", field) + "," + Entry("b", "key-of-b"))).ok());
  EXPECT_EQ(tenants.HubTokenOf("a").value(), "hf_first");
  EXPECT_EQ(tenants.HubTokenOf("b").value(), "");
  EXPECT_EQ(tenants.HubTokenOf("nobody").value(), "");
  EXPECT_EQ(tenants.HubTokenFiles(), std::vector<std::string>{folder.path() + "/token"});
  folder.Write("token", "hf_second");
  EXPECT_EQ(tenants.HubTokenOf("a").value(), "hf_second");
  folder.Write("token", "two words");
  const absl::Status broken = tenants.HubTokenOf("a").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(broken)) << broken;
  EXPECT_THAT(std::string(broken.message()), HasSubstr("the hub's token of tenant 'a'"));
  for (const char* wrong : {"\"\"", "7", "\"/missing\""}) {
    const absl::Status status =
        tenants.Load(File(Entry("a", "k", absl::StrCat(", \"hub_token_file\": ", wrong))));
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << wrong;
    EXPECT_THAT(std::string(status.message()), HasSubstr("hub_token_file")) << wrong;
  }
}

TEST(TenantsTest, AKeyNamesItsTenantAndNothingElseDoes) {
  Tenants tenants;
  ASSERT_TRUE(tenants.Load(File(Entry("a", "key-of-a") + "," + Entry("b", "key-of-b"))).ok());
  EXPECT_TRUE(tenants.needs_keys());
  EXPECT_EQ(Who(tenants, Bearer("key-of-a")), "a");
  EXPECT_EQ(Who(tenants, {{"bearer key-of-b"}, {}}), "b");
  EXPECT_EQ(Who(tenants, Bearer("  key-of-b")), "b") << "RFC 7235 allows more blanks than one";
  const Credentials wrong[] = {
      {},
      Bearer(""),
      Bearer(" "),
      Bearer("key-of-c"),
      Bearer("key-of-a "),
      Bearer(std::string("key-of-a\0", 9)),
      Bearer(HashOf("key-of-a")),
      Bearer(std::string(kApiKeyBytesMax, 'k')),
      Bearer(std::string(1 << 20, 'k')),
      {{"key-of-a"}, {}},
      {{"Basic key-of-a"}, {}},
      {{"Bearer"}, {}},
      {{"Bearerkey-of-a"}, {}},
      {{" Bearer key-of-a"}, {}},
      {{"Bearer key-of-a", "Bearer key-of-a"}, {}},
      {{}, {"a"}},
  };
  for (const Credentials& shown : wrong) {
    const absl::Status status = tenants.Authenticate(shown, kNow).status();
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("key-of")));
  }
}

TEST(TenantsTest, KeysOfAnyLengthUpToTheLimitWork) {
  const std::string longest(kApiKeyBytesMax, 'k');
  Tenants tenants;
  ASSERT_TRUE(tenants.Load(File(Entry("a", longest) + "," + Entry("b", longest + "k"))).ok());
  EXPECT_EQ(Who(tenants, Bearer(longest)), "a");
  EXPECT_EQ(Who(tenants, Bearer(" " + longest)), "a");
  EXPECT_EQ(Who(tenants, Bearer(longest + "k")), "UNAUTHENTICATED");
}

TEST(TenantsTest, KeysExpire) {
  const auto load = [](const std::string& expires) {
    Tenants tenants;
    EXPECT_TRUE(
        tenants
            .Load(File(absl::StrCat(R"({"name": "a", "adapters": [], "keys": [{"sha256": ")",
                                    HashOf("k"), R"(", "expires": ")", expires, "\"}]}")))
            .ok());
    return Who(tenants, Bearer("k"));
  };
  EXPECT_EQ(load(absl::FormatTime(kNow + absl::Seconds(1))), "a");
  EXPECT_EQ(load(absl::FormatTime(kNow)), "UNAUTHENTICATED");
}

TEST(TenantsTest, AHeaderForATenantCountsFromOperatorsAlone) {
  Tenants tenants;
  ASSERT_TRUE(tenants
                  .Load(File(Entry("op", "ko", R"(, "role": "operator")") + "," + Entry("a", "ka") +
                             "," + Entry("b", "kb")))
                  .ok());
  Credentials shown = Bearer("ka");
  shown.tenant_headers = {"b"};
  EXPECT_EQ(Who(tenants, shown), "a") << "forged";
  shown.authorization = {"Bearer ko"};
  EXPECT_EQ(Who(tenants, shown), "b");
  EXPECT_TRUE(CheckRole(**tenants.Authenticate(shown, kNow), TenantRole::kOperator).ok());
  shown.tenant_headers = {"nobody"};
  EXPECT_EQ(FieldOf(tenants.Authenticate(shown, kNow).status()), "x-tenant-id");
  shown.tenant_headers = {"a", "b"};
  EXPECT_EQ(Who(tenants, shown), "INVALID_ARGUMENT");
}

TEST(TenantsTest, RolesIncludeTheOnesBelow) {
  for (int has = 0; has < 3; ++has) {
    for (int needs = 0; needs < 3; ++needs) {
      Tenant tenant;
      tenant.role = static_cast<TenantRole>(has);
      const absl::Status status = CheckRole(tenant, static_cast<TenantRole>(needs));
      EXPECT_EQ(status.ok(), has >= needs);
      EXPECT_EQ(absl::IsPermissionDenied(status), has < needs);
    }
  }
}

TEST(TenantsTest, ScopesAreNamesOrBeginnings) {
  Tenant tenant;
  tenant.adapters = {"acme/*", "shared"};
  EXPECT_TRUE(tenant.MayUse("acme/x"));
  EXPECT_TRUE(tenant.MayUse("shared"));
  for (const char* location : {"", "acme", "acme-x", "shared2", "share", "other/acme/x"}) {
    EXPECT_FALSE(tenant.MayUse(location)) << location;
  }
  tenant.adapters = {};
  EXPECT_FALSE(tenant.MayUse("shared"));
}

TEST(TenantsTest, AFileWithAMistakeChangesNothing) {
  Tenants tenants;
  ASSERT_TRUE(tenants.Load(File(Entry("a", "k"))).ok());
  const std::string good = Entry("a", "k");
  const struct {
    std::string json;
    std::string says;
  } wrong[] = {
      {"", "form"},
      {"[]", "form"},
      {"{}", "form"},
      {File(""), "nobody could call"},
      {File(R"({"name": "a", "adapters": []})"), "nobody could call"},
      {"{\"tenants\": [], \"more\": 1}", "'more'"},
      {File("1"), "tenants[0] is not an object"},
      {File(good + "," + good), "there twice"},
      {File(Entry("a", "k") + "," + Entry("b", "k")), "key that is there twice"},
      {File(Entry("", "k")), "needs a name"},
      {File(Entry("a b", "k")), "needs a name"},
      {File(Entry(std::string(kTenantNameBytesMax + 1, 'n'), "k")), "needs a name"},
      {File(Entry("a", "k", R"(, "role": "root")")), "role must be"},
      {File(Entry("a", "k", R"(, "role": 1)")), "role must be"},
      {File(Entry("a", "k", R"(, "weigth": 1)")), "'weigth'"},
      {File(Entry("a", "k", R"(, "weight": 0)")), "weight must be"},
      {File(Entry("a", "k", R"(, "weight": 1001)")), "weight must be"},
      {File(Entry("a", "k", R"(, "streams": -1)")), "streams must be"},
      {File(Entry("a", "k", R"(, "requests_per_minute": 2.5)")),
       "requests_per_minute must be a whole number from 0, which is no limit, to"},
      {File(Entry("a", "k", R"(, "streams": 1.5)")), "streams must be"},
      {File(Entry("a", "k", R"(, "tokens_per_minute": 1099511627777)")), "tokens_per_minute must"},
      {File(R"({"name": "a", "keys": ["my secret key"], "adapters": []})"), "64 hex digits"},
      {File(R"({"name": "a", "keys": 5, "adapters": []})"), "keys must be a list"},
      {File(absl::StrCat(R"({"name": "a", "keys": [{"sha256": ")", HashOf("k"),
                         R"(", "expires": "soon"}], "adapters": []})")),
       "expires"},
      {File(absl::StrCat(R"({"name": "a", "keys": [")", HashOf("k"), "\"]}")), "needs adapters"},
      {File(R"({"name": "a", "keys": [], "adapters": ["a*b"]})"), "at the end alone"},
      {File(R"({"name": "a", "keys": [], "adapters": [""]})"), "adapters must be names"},
  };
  for (const auto& [json, says] : wrong) {
    const absl::Status status = tenants.Load(json);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says)) << json;
    EXPECT_EQ(Who(tenants, Bearer("k")), "a");
  }
}

TEST(TenantsTest, LimitsHoldAtTheirEdges) {
  const auto many = [](int tenants, int keys, int patterns) {
    std::string entries;
    for (int i = 0; i < tenants; ++i) {
      absl::StrAppend(&entries, i == 0 ? "" : ",", "{\"name\": \"t", i, "\", \"keys\": [");
      for (int k = 0; k < keys; ++k) {
        absl::StrAppend(&entries, k == 0 ? "\"" : ",\"", HashOf(absl::StrCat(i, "/", k)), "\"");
      }
      absl::StrAppend(&entries, "], \"adapters\": [");
      for (int p = 0; p < patterns; ++p)
        absl::StrAppend(&entries, p == 0 ? "" : ",", "\"p", p, "\"");
      absl::StrAppend(&entries, "]}");
    }
    return Tenants().Load(File(entries));
  };
  EXPECT_TRUE(many(kTenantsMax, 1, 0).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(many(kTenantsMax + 1, 1, 0)));
  EXPECT_TRUE(many(1, kTenantKeysMax, 0).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(many(1, kTenantKeysMax + 1, 0)));
  EXPECT_TRUE(many(1, 1, kTenantPatternsMax).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(many(1, 1, kTenantPatternsMax + 1)));
  std::string padded = File(Entry("a", "k"));
  padded.resize(kTenantsFileBytesMax, ' ');
  EXPECT_TRUE(Tenants().Load(padded).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Tenants().Load(padded + " ")));
}

TEST(TenantsTest, FilesAreReadWhole) {
  TemporaryFolder folder;
  folder.Write("tenants.json", File(Entry("a", "k")));
  Tenants tenants;
  EXPECT_TRUE(absl::IsNotFound(tenants.LoadFile(folder.path() + "/absent.json")));
  ASSERT_TRUE(tenants.LoadFile(folder.path() + "/tenants.json").ok());
  EXPECT_EQ(Who(tenants, Bearer("k")), "a");
  EXPECT_NE(tenants.Find("a"), nullptr);
  EXPECT_EQ(tenants.Find(kDefaultTenant), nullptr);
}

}  // namespace
}  // namespace lorica
