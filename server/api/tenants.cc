#include "server/api/tenants.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "adapters/adapter.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/operator_file.h"
#include "adapters/hub/quoted.h"
#include "adapters/sha256.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr size_t kHashDigits = 64;
constexpr size_t kIndexDigits = 16;
constexpr char kScheme[] = "bearer ";

struct Key {
  std::string hash;  // hex
  absl::Time expires = absl::InfiniteFuture();
  TenantPtr tenant;
};

absl::Status Bad(absl::string_view where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(where, " ", what));
}

std::string HashOf(absl::string_view key) {
  Sha256 hash;
  hash.Update(std::string_view(key.data(), key.size()));
  return hash.Finish();
}

absl::Status OnlyFields(const Json& object, absl::string_view where,
                        std::initializer_list<const char*> known) {
  for (const auto& [name, value] : object.items()) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return Bad(where, absl::StrCat("has a field ", Quoted(name), " that means nothing here"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadCount(const Json& object, const std::string& where, const char* name,
                       int64_t* count) {
  const auto found = object.find(name);
  if (found == object.end()) return absl::OkStatus();
  const bool fits = found->is_number_unsigned() && *found <= uint64_t{kTenantLimitMax};
  if (!fits) {
    return Bad(where, absl::StrCat(name, " must be a whole number from 0, which is no limit, to ",
                                   kTenantLimitMax));
  }
  *count = found->get<int64_t>();
  return absl::OkStatus();
}

absl::Status ReadName(const Json& object, const std::string& where, Tenant* tenant) {
  const auto found = object.find("name");
  const bool text = found != object.end() && found->is_string();
  if (text) tenant->name = found->get<std::string>();
  const bool plain = text && !tenant->name.empty() && tenant->name.size() <= kTenantNameBytesMax &&
                     std::all_of(tenant->name.begin(), tenant->name.end(), [](unsigned char c) {
                       return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
                     });
  if (plain) return absl::OkStatus();
  return Bad(where, absl::StrCat("needs a name of 1 to ", kTenantNameBytesMax,
                                 " letters, digits, '.', '_' and '-'"));
}

absl::Status ReadRole(const Json& object, const std::string& where, Tenant* tenant) {
  const Json role = object.value("role", Json("user"));
  if (role == "user") {
    tenant->role = TenantRole::kUser;
  } else if (role == "manager") {
    tenant->role = TenantRole::kManager;
  } else if (role == "operator") {
    tenant->role = TenantRole::kOperator;
  } else {
    return Bad(where, "role must be user, manager or operator");
  }
  return absl::OkStatus();
}

absl::Status ReadAdapters(const Json& object, const std::string& where, Tenant* tenant) {
  const auto found = object.find("adapters");
  if (found == object.end() || !found->is_array()) {
    return Bad(where, "needs adapters: a list of folders, [\"*\"] for all of them");
  }
  if (found->size() > kTenantPatternsMax) {
    return Bad(where, absl::StrCat("has more than ", kTenantPatternsMax, " adapters"));
  }
  tenant->adapters.clear();
  for (const Json& pattern : *found) {
    const std::string text = pattern.is_string() ? pattern.get<std::string>() : "";
    const bool star_inside = text.find('*') < text.size() - 1;
    if (text.empty() || star_inside || text.size() > kAdapterIdBytesMax) {
      return Bad(where, "adapters must be names, with \"*\" at the end alone");
    }
    tenant->adapters.push_back(text);
  }
  return absl::OkStatus();
}

absl::Status ReadLimits(const Json& object, const std::string& where, Tenant* tenant) {
  const auto weight = object.find("weight");
  if (weight != object.end()) {
    tenant->weight = weight->is_number() ? weight->get<double>() : 0.0;
    if (!(tenant->weight >= 1.0 / kTenantWeightMax && tenant->weight <= kTenantWeightMax)) {
      return Bad(where, absl::StrCat("weight must be from ", 1.0 / kTenantWeightMax, " to ",
                                     kTenantWeightMax));
    }
  }
  absl::Status status =
      ReadCount(object, where, "requests_per_minute", &tenant->requests_per_minute);
  if (status.ok()) {
    status = ReadCount(object, where, "tokens_per_minute", &tenant->tokens_per_minute);
  }
  if (status.ok()) status = ReadCount(object, where, "streams", &tenant->streams);
  return status;
}

// Looks into it, so that a path that is wrong shows when the table is read.
absl::Status ReadHubToken(const Json& object, const std::string& where, Tenant* tenant) {
  const auto found = object.find("hub_token_file");
  if (found == object.end()) return absl::OkStatus();
  if (!found->is_string() || *found == "") {
    return Bad(where, "hub_token_file must be the path of a file");
  }
  tenant->hub_token_file = found->get<std::string>();
  const absl::Status read = ReadTokenFile(tenant->hub_token_file).status();
  return read.ok() ? read : Bad(where, absl::StrCat("hub_token_file: ", read.message()));
}

absl::StatusOr<Key> ReadKey(const Json& entry, const std::string& where) {
  Key key;
  Json hash = entry;
  if (entry.is_object()) {
    if (auto status = OnlyFields(entry, where, {"sha256", "expires"}); !status.ok()) return status;
    hash = entry.value("sha256", Json());
    const Json expires = entry.value("expires", Json("infinite-future"));
    std::string error;
    if (!expires.is_string() ||
        !absl::ParseTime(absl::RFC3339_full, expires.get<std::string>(), &key.expires, &error)) {
      return Bad(where, "expires of a key must be a time such as 2027-01-31T00:00:00Z");
    }
  }
  if (hash.is_string()) key.hash = absl::AsciiStrToLower(hash.get<std::string>());
  const bool hex = key.hash.size() == kHashDigits &&
                   key.hash.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!hex) {
    return Bad(where, "keys must hold the SHA-256 of each key, 64 hex digits, not the key itself");
  }
  return key;
}

}  // namespace

struct Tenants::Table {
  absl::flat_hash_map<std::string, TenantPtr> by_name;
  // By the first digits of the hash. How long a look takes tells about those at most,
  // and a hash does not lead back to a key; the rest is compared in constant time.
  absl::flat_hash_map<std::string, Key> keys;

  absl::Status Add(const Json& entry, int index) {
    std::string where = absl::StrCat("tenants[", index, "]");
    if (!entry.is_object()) return Bad(where, "is not an object");
    Tenant tenant;
    absl::Status status = ReadName(entry, where, &tenant);
    if (!status.ok()) return status;
    where = absl::StrCat("tenant ", Quoted(tenant.name));
    status = OnlyFields(entry, where,
                        {"name", "keys", "role", "adapters", "weight", "requests_per_minute",
                         "tokens_per_minute", "streams", "hub_token_file"});
    if (status.ok()) status = ReadRole(entry, where, &tenant);
    if (status.ok()) status = ReadAdapters(entry, where, &tenant);
    if (status.ok()) status = ReadLimits(entry, where, &tenant);
    if (status.ok()) status = ReadHubToken(entry, where, &tenant);
    if (!status.ok()) return status;
    auto shared = std::make_shared<const Tenant>(std::move(tenant));
    if (!by_name.emplace(shared->name, shared).second) return Bad(where, "is there twice");
    return AddKeys(entry, where, shared);
  }

  absl::Status AddKeys(const Json& entry, const std::string& where, const TenantPtr& tenant) {
    const Json list = entry.value("keys", Json::array());
    if (!list.is_array() || list.size() > kTenantKeysMax) {
      return Bad(where, absl::StrCat("keys must be a list of at most ", kTenantKeysMax));
    }
    for (const Json& one : list) {
      absl::StatusOr<Key> key = ReadKey(one, where);
      if (!key.ok()) return key.status();
      key->tenant = tenant;
      const std::string index = key->hash.substr(0, kIndexDigits);
      if (!keys.emplace(index, *std::move(key)).second) {
        return Bad(where, "has a key that is there twice");
      }
    }
    return absl::OkStatus();
  }
};

bool Tenant::MayUse(absl::string_view location) const {
  return std::any_of(adapters.begin(), adapters.end(), [&](absl::string_view pattern) {
    return absl::ConsumeSuffix(&pattern, "*") ? absl::StartsWith(location, pattern)
                                              : location == pattern;
  });
}

absl::Status Tenants::LoadFile(const std::string& path) {
  const auto text = ReadOperatorFile(path, kTenantsFileBytesMax);
  if (!text.ok()) return absl::NotFoundError(absl::StrCat(path, " ", text.status().message()));
  absl::Status status = Load(*text);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::Status Tenants::Load(const std::string& json) {
  if (std::ssize(json) > kTenantsFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("is larger than ", kTenantsFileBytesMax, " bytes"));
  }
  const Json document = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || !document.contains("tenants") || !document["tenants"].is_array()) {
    return absl::InvalidArgumentError("is not JSON of the form {\"tenants\": [...]}");
  }
  absl::Status status = OnlyFields(document, "the file", {"tenants"});
  if (!status.ok()) return status;
  if (document["tenants"].size() > kTenantsMax) {
    return absl::InvalidArgumentError(absl::StrCat("has more than ", kTenantsMax, " tenants"));
  }
  auto table = std::make_shared<Table>();
  int index = 0;
  for (const Json& entry : document["tenants"]) {
    status = table->Add(entry, index++);
    if (!status.ok()) return status;
  }
  if (table->keys.empty()) {
    return absl::InvalidArgumentError("has no tenant with a key: nobody could call");
  }
  absl::MutexLock lock(&mutex_);
  table_ = std::move(table);
  return absl::OkStatus();
}

std::shared_ptr<const Tenants::Table> Tenants::table() const {
  absl::MutexLock lock(&mutex_);
  return table_;
}

bool Tenants::needs_keys() const { return table() != nullptr; }

TenantPtr Tenants::Find(const std::string& name) const {
  const auto current = table();
  if (current == nullptr) {
    static const auto& everybody = *new TenantPtr(std::make_shared<const Tenant>());
    return name == kDefaultTenant ? everybody : nullptr;
  }
  const auto found = current->by_name.find(name);
  return found == current->by_name.end() ? nullptr : found->second;
}

absl::StatusOr<std::string> Tenants::HubTokenOf(const std::string& name) const {
  const TenantPtr tenant = Find(name);
  if (tenant == nullptr || tenant->hub_token_file.empty()) return std::string();
  absl::StatusOr<std::string> token = ReadTokenFile(tenant->hub_token_file);
  if (token.ok()) return token;
  return absl::FailedPreconditionError(
      absl::StrCat("the hub's token of tenant ", Quoted(name), ": ", token.status().message()));
}

std::vector<std::string> Tenants::HubTokenFiles() const {
  std::vector<std::string> paths;
  const auto current = table();
  if (current == nullptr) return paths;
  for (const auto& [name, tenant] : current->by_name) {
    if (!tenant->hub_token_file.empty()) paths.push_back(tenant->hub_token_file);
  }
  return paths;
}

absl::StatusOr<TenantPtr> Tenants::Authenticate(const Credentials& credentials,
                                                absl::Time now) const {
  const auto current = table();
  if (current == nullptr) return Find(kDefaultTenant);
  if (credentials.authorization.size() != 1) {
    return absl::UnauthenticatedError(
        credentials.authorization.empty()
            ? "this server needs a key: send it as \"authorization: Bearer KEY\""
            : "authorization was sent more than once; send one header");
  }
  absl::string_view key = credentials.authorization[0];
  const bool is_bearer = absl::StartsWithIgnoreCase(key, kScheme);
  key.remove_prefix(is_bearer ? sizeof kScheme - 1 : 0);
  key.remove_prefix(std::min(key.find_first_not_of(' '), key.size()));  // RFC 7235: any number
  if (!is_bearer || key.size() > kApiKeyBytesMax) {
    return absl::UnauthenticatedError(absl::StrCat(
        "authorization is not \"Bearer KEY\" with a key of at most ", kApiKeyBytesMax, " bytes"));
  }
  const std::string hash = HashOf(key);
  const auto found = current->keys.find(hash.substr(0, kIndexDigits));
  const std::string& wanted = found == current->keys.end() ? hash : found->second.hash;
  const bool equal = CRYPTO_memcmp(hash.data(), wanted.data(), kHashDigits) == 0;
  if (found == current->keys.end() || !equal || found->second.expires <= now) {
    return absl::UnauthenticatedError("the key is not known here, or has expired");
  }
  const TenantPtr tenant = found->second.tenant;
  // From others the header means nothing: a client could forge it.
  if (tenant->role != TenantRole::kOperator || credentials.tenant_headers.empty()) return tenant;
  const auto other = current->by_name.find(credentials.tenant_headers[0]);
  if (credentials.tenant_headers.size() > 1 || other == current->by_name.end()) {
    return FieldError("x-tenant-id", "must name one tenant of this server");
  }
  Tenant acting = *other->second;
  acting.role = TenantRole::kOperator;
  return std::make_shared<const Tenant>(std::move(acting));
}

absl::Status CheckRole(const Tenant& tenant, TenantRole needed) {
  if (tenant.role >= needed) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrCat("tenant ", Quoted(tenant.name), " may not do this: it takes the role ",
                   needed == TenantRole::kOperator ? "operator" : "manager"));
}

}  // namespace lorica
