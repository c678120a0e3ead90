// `lorica usage` and `lorica key`: what tenants used, and keys for them.
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <array>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/commands/command.h"
#include "client/commands/secret_file.h"
#include "client/commands/terminal.h"

namespace lorica {
namespace {

constexpr char kUsageExamples[] = R"(Examples:
  lorica --api-key-file key usage
  lorica --api-key-file key usage --json | jq '[.rows[].completion_tokens] | add'

Tokens by tenant and generation of the adapter, across restarts of a server with a data
folder; a mix of several has a row of its own. Operators see all tenants.)";

constexpr char kKeyExamples[] = R"(Examples:
  lorica key --out acme.key       the key into a new file that you alone can read
  lorica key --hash < acme.key    the hash of a key that is there
  lorica key --out acme.key --json | jq -r .sha256

The hash goes into the server's --tenants-file, the key to whoever calls. The server
never sees the file with the key; nobody can make the key from the hash.)";

constexpr size_t kShortDigest = 12;
constexpr size_t kKeyRandomBytes = 32;

struct TenantFlags {
  std::string of;
  std::string out;
  bool hash = false;
};

// A mix has the digests of all, with "+" between them.
std::string ShortGenerations(const std::string& row) {
  if (row.empty()) return "(base)";
  std::vector<std::string> parts = absl::StrSplit(row, '+');
  for (std::string& part : parts) part = part.substr(0, kShortDigest);
  return absl::StrJoin(parts, "+");
}

int ShowUsage(const CommandContext& context, const TenantFlags& flags) {
  v1::GetUsageRequest request;
  request.set_tenant(flags.of);
  auto response = context.MakeClient()->GetUsage(request, context.Call());
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    PrintJson(MessageToJson(*response));
    return kExitOk;
  }
  Table table({"tenant", "generation", ">requests", ">prompt", ">cached", ">completion"});
  for (const v1::UsageRow& row : response->rows()) {
    table.AddRow({Printable(row.tenant()), ShortGenerations(row.generation()),
                  HumanCount(row.requests()), HumanCount(row.prompt_tokens()),
                  HumanCount(row.cached_tokens()), HumanCount(row.completion_tokens())});
  }
  std::printf("%s", table.ToString(stdout).c_str());
  return kExitOk;
}

std::string HashOf(const std::string& key) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> hash;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data());
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
}

// A new one, or the hash of one that is there; `key` empty: it is in a file, or known.
int PrintKey(const CommandContext& context, const std::string& key, const std::string& hash,
             const TenantFlags& flags) {
  if (context.json) {
    Json json = {{"sha256", hash}};
    if (!key.empty()) json["key"] = key;
    if (!flags.out.empty()) json["out"] = flags.out;
    PrintJson(json);
  } else if (flags.hash) {
    std::printf("%s\n", hash.c_str());
  } else {
    if (!key.empty()) std::printf("%s\n", key.c_str());
    std::fprintf(stderr, "sha256 for the tenants' file: %s\n", hash.c_str());
  }
  return kExitOk;
}

int Key(const CommandContext& context, const TenantFlags& flags) {
  std::string key;
  if (flags.hash) {
    std::getline(std::cin, key);
    if (!key.empty() && key.back() == '\r') key.pop_back();
    if (key.empty()) return FailUsage("key --hash reads a key from standard input: it is empty");
    return PrintKey(context, "", HashOf(key), flags);
  }
  std::string random(kKeyRandomBytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(random.data()), kKeyRandomBytes) != 1) {
    return FailUsage("this machine gives no random bytes");
  }
  key = absl::StrCat("lorica-", absl::WebSafeBase64Escape(random));
  if (flags.out.empty()) return PrintKey(context, key, HashOf(key), flags);
  if (absl::Status s = WriteSecretFile(flags.out, key + "\n"); !s.ok()) {
    return FailUsage(std::string(s.message()));
  }
  return PrintKey(context, "", HashOf(key), flags);
}

}  // namespace

void AddUsage(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* sub = app->add_subcommand("usage", "Tokens by tenant and generation");
  auto flags = std::make_shared<TenantFlags>();
  sub->add_option("--of", flags->of, "Operators: this tenant alone");
  sub->footer(kUsageExamples);
  sub->callback([=] { *action = [=] { return ShowUsage(*context, *flags); }; });
}

void AddKey(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* sub = app->add_subcommand("key", "A new key for a tenant, and its hash");
  auto flags = std::make_shared<TenantFlags>();
  CLI::Option* hash =
      sub->add_flag("--hash", flags->hash, "Only the hash, of the key on standard input");
  sub->add_option("--out", flags->out, "A new file for the key, instead of standard output")
      ->type_name("FILE")
      ->excludes(hash);
  sub->footer(kKeyExamples);
  sub->callback([=] { *action = [=] { return Key(*context, *flags); }; });
}

}  // namespace lorica
