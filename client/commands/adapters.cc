// `lorica adapters …`: name, inspect and move adapters.
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/commands/adapter_text.h"
#include "client/commands/command.h"
#include "client/commands/fetch_progress.h"
#include "client/commands/request_flags.h"
#include "client/commands/secret_file.h"
#include "client/commands/terminal.h"

namespace lorica {
namespace {

constexpr char kExamples[] = R"(Examples:
  lorica adapters list
  lorica adapters check ticket-triage          what the loader would say; changes nothing
  lorica adapters register support --source ticket-triage
  lorica adapters register support --source ticket-triage-v2 --replace
  lorica adapters register support --source my-team/support@v2 --hub-token-file token
  lorica adapters merge both support=0.7 intent=0.3 --method ties --density 0.5
  lorica adapters rollback support             back to the one before
  lorica adapters alias live support           another name for it
  lorica adapters import acme                  register all folders beneath acme/
  lorica adapters load support headline        bring both to the device and wait
  lorica adapters pin support --tier host
  lorica adapters evict support --down-to source --wait-for-streams
  lorica adapters watch --json

A source is a folder beneath the server's --adapters-dir, a repository of the hub or an
object in a bucket or on a web server, each where the server allows it.
Tiers: source (where it came from), disk (fetched), host (images in memory), device (ready to
run). What was fetched stays on disk until it gives way or is deleted.)";

struct AdapterFlags {
  std::vector<std::string> ids;
  std::string name;
  std::string source;
  std::string prefix;
  std::string hub_token_file;
  std::string tier = "device";
  std::string down_to = "source";
  std::string expected_generation;
  std::string to;
  std::string group;
  std::vector<std::string> parts;
  std::string method = "linear";
  std::string majority_sign = "total";
  double density = 0.0;
  uint64_t seed = 0;
  bool strip_group = false;
  bool replace = false;
  bool wait_for_streams = false;
  int interval_ms = 0;
  int count = 0;
};

const std::map<std::string, v1::Tier>& Tiers() {
  static const auto* tiers = new std::map<std::string, v1::Tier>{
      {"source", v1::TIER_SOURCE}, {"host", v1::TIER_HOST}, {"device", v1::TIER_DEVICE}};
  return *tiers;
}

std::string NoneListed(const CommandContext& context, const std::string& prefix) {
  if (prefix.empty() && context.api_key.empty()) {
    return "no adapters: put PEFT folders under the server's --adapters-dir, or register one";
  }
  return absl::StrCat("no adapter", context.api_key.empty() ? "" : " that this key may use",
                      prefix.empty() ? "" : absl::StrCat(" begins with '", Printable(prefix), "'"));
}

int List(const CommandContext& context, const AdapterFlags& flags) {
  auto adapters = context.MakeClient()->AllAdapters(flags.prefix, context.Call());
  if (!adapters.ok()) return Fail(context, adapters.status());
  if (context.json) {
    Json json = {{"adapters", Json::array()}};
    for (const v1::Adapter& adapter : *adapters) {
      json["adapters"].push_back(MessageToJson(adapter));
    }
    PrintJson(json);
  } else if (adapters->empty()) {
    std::fprintf(stderr, "%s\n", NoneListed(context, flags.prefix).c_str());
  } else {
    std::printf("%s", AdapterTable(*adapters, stdout).c_str());
  }
  return kExitOk;
}

// "" without the flag.
absl::StatusOr<std::string> HubTokenOf(const AdapterFlags& flags) {
  return flags.hub_token_file.empty() ? std::string() : ReadSecretWord(flags.hub_token_file);
}

int Get(const CommandContext& context, const AdapterFlags& flags) {
  const absl::StatusOr<std::string> token = HubTokenOf(flags);
  if (!token.ok()) return FailUsage(std::string(token.status().message()));
  v1::GetAdapterRequest request;
  request.set_adapter_id(flags.ids.front());
  request.set_hub_token(*token);
  auto response = context.MakeClient()->GetAdapter(request, context.Call());
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    Json json = MessageToJson(response->adapter());
    json["history"] = MessageToJson(*response)["history"];
    PrintJson(json);
  } else {
    std::printf("%s%s", AdapterDetails(response->adapter(), stdout).c_str(),
                HistoryText(*response, stdout).c_str());
  }
  return kExitOk;
}

int Check(const CommandContext& context, const AdapterFlags& flags) {
  const absl::StatusOr<std::string> token = HubTokenOf(flags);
  if (!token.ok()) return FailUsage(std::string(token.status().message()));
  v1::CheckAdapterRequest request;
  request.set_source(flags.ids.front());
  request.set_hub_token(*token);
  absl::StatusOr<v1::CheckAdapterResponse> response;
  WithWaiting("checking", flags.ids.front(),
              [&] { response = context.MakeClient()->CheckAdapter(request, context.Call()); });
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    PrintJson(MessageToJson(*response));
  } else {
    std::printf("%s", CheckText(flags.ids.front(), *response, stdout).c_str());
  }
  return response->servable() ? kExitOk : kExitFailed;
}

// `Response`: of RegisterAdapter or MergeAdapters.
template <typename Response>
std::string WhatRegisteringDid(const std::string& created, const Response& response) {
  if (response.created()) return created;
  if (response.replaced().empty()) return "unchanged:";
  return absl::StrCat("replaced ", ShortGeneration(response.replaced()), " by");
}

int Register(const CommandContext& context, const AdapterFlags& flags) {
  const absl::StatusOr<std::string> token = HubTokenOf(flags);
  if (!token.ok()) return FailUsage(std::string(token.status().message()));
  v1::RegisterAdapterRequest request;
  request.set_hub_token(*token);
  request.set_adapter_id(flags.ids.front());
  request.set_source(flags.source);
  request.set_replace(flags.replace);
  request.set_expected_generation(flags.expected_generation);
  absl::StatusOr<v1::RegisterAdapterResponse> response;
  WithFetchProgress(
      context, "registering", {flags.source.empty() ? flags.ids.front() : flags.source, *token},
      [&] { response = context.MakeClient()->RegisterAdapter(request, context.Call()); });
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    PrintJson(MessageToJson(*response));
  } else {
    std::printf("%s %s\n", WhatRegisteringDid("registered", *response).c_str(),
                AdapterLine(response->adapter()).c_str());
  }
  return kExitOk;
}

const std::map<std::string, v1::MergeMethod>& MergeMethods() {
  static const auto* methods = new std::map<std::string, v1::MergeMethod>{
      {"linear", v1::MERGE_METHOD_LINEAR},
      {"cat", v1::MERGE_METHOD_CAT},
      {"ties", v1::MERGE_METHOD_TIES},
      {"dare_linear", v1::MERGE_METHOD_DARE_LINEAR},
      {"dare_ties", v1::MERGE_METHOD_DARE_TIES},
      {"magnitude_prune", v1::MERGE_METHOD_MAGNITUDE_PRUNE}};
  return *methods;
}

int Merge(const CommandContext& context, const AdapterFlags& flags) {
  if (flags.density != 0 && (flags.method == "linear" || flags.method == "cat")) {
    return FailUsage(absl::StrCat("--density means nothing to --method ", flags.method));
  }
  const absl::StatusOr<std::string> token = HubTokenOf(flags);
  if (!token.ok()) return FailUsage(std::string(token.status().message()));
  v1::MergeAdaptersRequest request;
  request.set_adapter_id(flags.name);
  request.set_hub_token(*token);
  const absl::StatusOr<std::vector<v1::AdapterWeight>> parts =
      ParseMix(absl::StrJoin(flags.parts, ","), "a=0.7 b=0.3");
  if (!parts.ok()) return FailUsage(std::string(parts.status().message()));
  for (const v1::AdapterWeight& part : *parts) {
    v1::MergePart* one = request.add_parts();
    one->set_adapter_id(part.adapter_id());
    one->set_weight(part.has_weight() ? part.weight() : 1.0);
  }
  request.set_method(MergeMethods().at(flags.method));
  request.set_density(flags.density);
  request.set_majority_sign(flags.majority_sign == "frequency" ? v1::MAJORITY_SIGN_FREQUENCY
                                                               : v1::MAJORITY_SIGN_TOTAL);
  request.set_seed(flags.seed);
  request.set_replace(flags.replace);
  request.set_expected_generation(flags.expected_generation);
  absl::StatusOr<v1::MergeAdaptersResponse> response;
  WithWaiting("merging", flags.name,
              [&] { response = context.MakeClient()->MergeAdapters(request, context.Call()); });
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    PrintJson(MessageToJson(*response));
  } else {
    std::printf("%s %s\n", WhatRegisteringDid("merged", *response).c_str(),
                AdapterLine(response->adapter()).c_str());
  }
  return kExitOk;
}

using OneAdapter =
    std::function<absl::StatusOr<v1::Adapter>(const std::string& id, const std::string& hub_token)>;

// Runs `call` for each id, with a bar while one waits; goes on after a failure and
// returns the last one. `more` is printed beside what came of them, with --json.
int ForEach(const CommandContext& context, const AdapterFlags& flags, const std::string& verb,
            const OneAdapter& call, const Json& more = Json::object()) {
  const absl::StatusOr<std::string> token = HubTokenOf(flags);
  if (!token.ok()) return FailUsage(std::string(token.status().message()));
  int code = kExitOk;
  Json json = {{"adapters", Json::array()}};
  json.update(more);
  ProgressBar progress(verb);
  for (size_t i = 0; i < flags.ids.size(); ++i) {
    const std::string& id = flags.ids[i];
    if (flags.ids.size() > 1) progress.Update(static_cast<double>(i) / flags.ids.size(), id);
    absl::StatusOr<v1::Adapter> adapter = call(id, *token);
    progress.Clear();
    if (!adapter.ok()) {
      CommandContext plain = context;
      plain.json = false;
      code = Fail(plain, adapter.status());
      Json error = ErrorToJson(adapter.status());
      error["adapter_id"] = id;
      json["adapters"].push_back(error);
    } else {
      json["adapters"].push_back(MessageToJson(*adapter));
      if (!context.json) std::printf("%s %s\n", verb.c_str(), AdapterLine(*adapter).c_str());
    }
  }
  if (context.json) PrintJson(json);
  return code;
}

// Response -> its adapter.
template <class Response>
absl::StatusOr<v1::Adapter> AdapterOf(const absl::StatusOr<Response>& response) {
  if (!response.ok()) return response.status();
  return response->adapter();
}

int Rollback(const CommandContext& context, const AdapterFlags& flags) {
  auto client = context.MakeClient();
  return ForEach(context, flags, "rolled back", [&](const std::string& id, const std::string&) {
    v1::RollbackAdapterRequest request;
    request.set_adapter_id(id);
    request.set_generation(flags.to);
    request.set_expected_generation(flags.expected_generation);
    return AdapterOf(client->RollbackAdapter(request, context.Call()));
  });
}

int Alias(const CommandContext& context, const AdapterFlags& flags) {
  const absl::StatusOr<std::string> token = HubTokenOf(flags);
  if (!token.ok()) return FailUsage(std::string(token.status().message()));
  v1::SetAliasRequest request;
  request.set_alias(flags.ids[0]);
  request.set_adapter_id(flags.ids[1]);
  request.set_replace(flags.replace);
  request.set_expected_generation(flags.expected_generation);
  request.set_hub_token(*token);
  auto response = context.MakeClient()->SetAlias(request, context.Call());
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    PrintJson(MessageToJson(*response));
  } else {
    std::printf("%s is %s\n", Printable(flags.ids[0]).c_str(),
                AdapterLine(response->adapter()).c_str());
  }
  return kExitOk;
}

// A folder of the server's, under its own name; what came from a hub or was made is none.
bool IsFolder(const v1::Adapter& adapter) {
  return !adapter.deleted() && adapter.alias_of().empty() &&
         adapter.source() == adapter.adapter_id();
}

// What stands before the names of a group's folders; "", "." and "./" are the root.
std::string PrefixOf(absl::string_view group) {
  absl::ConsumeSuffix(&group, "/");
  return group.empty() || group == "." ? "" : absl::StrCat(group, "/");
}

// The name that a folder is imported under.
std::string ImportedName(const AdapterFlags& flags, const std::string& folder) {
  return flags.strip_group ? folder.substr(PrefixOf(flags.group).size()) : folder;
}

// Folders whose names were deleted stay hidden: why, and how each comes back.
Json SkippedByImport(const AdapterFlags& flags, const std::vector<v1::Adapter>& found) {
  Json skipped = Json::array();
  for (const v1::Adapter& adapter : found) {
    if (!adapter.deleted()) continue;
    const std::string& folder = adapter.adapter_id();
    const std::string name = ImportedName(flags, folder);
    skipped.push_back(
        {{"adapter_id", folder},
         {"reason",
          absl::StrCat("its name was deleted; to serve it again: lorica adapters register ", name,
                       name == folder ? "" : " --source " + folder)}});
  }
  return skipped;
}

void PrintSummary(int registered, int failed, const Json& skipped) {
  for (const Json& one : skipped) {
    std::printf("skipped %s: %s\n", Printable(one["adapter_id"].get<std::string>()).c_str(),
                Printable(one["reason"].get<std::string>()).c_str());
  }
  std::printf("%d registered, %d failed, %zu skipped\n", registered, failed, skipped.size());
}

// Registers each folder of a group under its own name, or that without the group.
int Import(const CommandContext& context, const AdapterFlags& flags) {
  auto client = context.MakeClient();
  const std::string prefix = PrefixOf(flags.group);
  auto found = client->AllAdapters(prefix, context.Call(), true);
  if (!found.ok()) return Fail(context, found.status());
  if (found->empty() && !prefix.empty()) {
    return Fail(context,
                absl::NotFoundError(absl::StrCat("no adapter's folder lies beneath ", prefix)));
  }
  AdapterFlags each = flags;
  for (const v1::Adapter& adapter : *found) {
    const bool wanted = !adapter.registered() || flags.replace || flags.strip_group;
    if (IsFolder(adapter) && wanted) each.ids.push_back(adapter.adapter_id());
  }
  if (each.ids.empty()) {
    std::fprintf(stderr, "nothing to import: no folder%s that is not registered yet\n",
                 prefix.empty() ? "" : absl::StrCat(" beneath ", prefix).c_str());
  }
  const Json skipped = SkippedByImport(flags, *found);
  int registered = 0;
  int failed = 0;
  const auto call = [&](const std::string& id, const std::string& token) {
    v1::RegisterAdapterRequest request;
    request.set_adapter_id(ImportedName(flags, id));
    request.set_source(id);
    request.set_hub_token(token);
    request.set_replace(flags.replace);
    auto adapter = AdapterOf(client->RegisterAdapter(request, context.Call()));
    ++(adapter.ok() ? registered : failed);
    return adapter;
  };
  const int code = ForEach(context, each, "registered", call, {{"skipped", skipped}});
  if (!context.json) PrintSummary(registered, failed, skipped);
  return code;
}

int Load(const CommandContext& context, const AdapterFlags& flags) {
  auto client = context.MakeClient();
  return ForEach(context, flags, "loaded", [&](const std::string& id, const std::string& token) {
    v1::LoadAdapterRequest request;
    request.set_adapter_id(id);
    request.set_tier(Tiers().at(flags.tier));
    request.set_hub_token(token);
    absl::StatusOr<v1::Adapter> adapter;
    WithFetchProgress(context, "loading", {id, token},
                      [&] { adapter = AdapterOf(client->LoadAdapter(request, context.Call())); });
    return adapter;
  });
}

int Evict(const CommandContext& context, const AdapterFlags& flags) {
  auto client = context.MakeClient();
  return ForEach(context, flags, "evicted", [&](const std::string& id, const std::string& token) {
    v1::EvictAdapterRequest request;
    request.set_adapter_id(id);
    request.set_hub_token(token);
    request.set_down_to(Tiers().at(flags.down_to));
    request.set_wait(flags.wait_for_streams);
    return AdapterOf(client->EvictAdapter(request, context.Call()));
  });
}

int Pin(const CommandContext& context, const AdapterFlags& flags) {
  auto client = context.MakeClient();
  return ForEach(context, flags, "pinned", [&](const std::string& id, const std::string& token) {
    v1::PinAdapterRequest request;
    request.set_adapter_id(id);
    request.set_hub_token(token);
    request.set_tier(Tiers().at(flags.tier));
    absl::StatusOr<v1::Adapter> adapter;
    WithFetchProgress(context, "loading", {id, token},
                      [&] { adapter = AdapterOf(client->PinAdapter(request, context.Call())); });
    return adapter;
  });
}

int Unpin(const CommandContext& context, const AdapterFlags& flags) {
  auto client = context.MakeClient();
  return ForEach(context, flags, "unpinned", [&](const std::string& id, const std::string& token) {
    v1::UnpinAdapterRequest request;
    request.set_adapter_id(id);
    request.set_hub_token(token);
    return AdapterOf(client->UnpinAdapter(request, context.Call()));
  });
}

int Delete(const CommandContext& context, const AdapterFlags& flags) {
  auto client = context.MakeClient();
  return ForEach(
      context, flags, "deleted",
      [&](const std::string& id, const std::string& token) -> absl::StatusOr<v1::Adapter> {
        v1::DeleteAdapterRequest request;
        request.set_adapter_id(id);
        request.set_hub_token(token);
        absl::Status status = client->DeleteAdapter(request, context.Call());
        if (!status.ok()) return status;
        v1::Adapter gone;
        gone.set_adapter_id(id);
        return gone;
      });
}

// False: nobody reads it.
bool PrintEvent(const v1::WatchAdaptersResponse& event, bool json) {
  const std::string text = json ? ToLine(MessageToJson(event)) + "\n" : EventText(event);
  return std::printf("%s", text.c_str()) >= 0 && std::fflush(stdout) == 0;
}

int Watch(const CommandContext& context, const AdapterFlags& flags) {
  v1::WatchAdaptersRequest request;
  request.set_interval_ms(flags.interval_ms);
  int seen = 0;
  absl::Status status = context.MakeClient()->WatchAdapters(
      request,
      [&](const v1::WatchAdaptersResponse& event) {
        const bool more = flags.count == 0 || ++seen < flags.count;
        return PrintEvent(event, context.json) && more;
      },
      context.Call());
  return status.ok() ? kExitOk : Fail(context, status);
}

using Handler = int (*)(const CommandContext&, const AdapterFlags&);

// Declares the subcommands of `adapters`, which share one AdapterFlags.
class Declare {
 public:
  Declare(CLI::App* parent, const CommandContext* context, Action* action)
      : parent_(parent), context_(context), action_(action) {}

  CLI::App* Sub(const char* name, const char* help, Handler handler) {
    CLI::App* sub = parent_->add_subcommand(name, help);
    sub->callback([context = context_, action = action_, flags = flags_, handler] {
      *action = [=] { return handler(*context, *flags); };
    });
    return sub;
  }
  CLI::App* OneId(const char* name, const char* what, const char* help, Handler handler) {
    CLI::App* sub = Sub(name, help, handler);
    sub->add_option("id", flags_->ids, what)->required()->expected(1);
    return sub;
  }
  CLI::App* ManyIds(const char* name, const char* help, Handler handler) {
    CLI::App* sub = Sub(name, help, handler);
    sub->add_option("ids", flags_->ids, "Adapter ids")->required()->expected(1, -1);
    return sub;
  }
  void Tier(CLI::App* sub, const char* flag, std::string AdapterFlags::*value, const char* help,
            const std::vector<std::string>& names) {
    sub->add_option(flag, flags_.get()->*value, help)
        ->check(CLI::IsMember(names))
        ->capture_default_str();
  }
  void HubToken(CLI::App* sub) {
    sub->add_option("--hub-token-file", flags_->hub_token_file,
                    "Your own token for the hub, where the adapter is only there with it")
        ->type_name("FILE");
  }
  AdapterFlags* flags() { return flags_.get(); }

 private:
  CLI::App* const parent_;
  const CommandContext* const context_;
  Action* const action_;
  const std::shared_ptr<AdapterFlags> flags_ = std::make_shared<AdapterFlags>();
};

void DeclareNaming(Declare* declare) {
  CLI::App* add =
      declare->OneId("register", "The name to give", "Give an adapter a name that stays", Register);
  add->add_option("--source", declare->flags()->source,
                  "Folder beneath the adapters root, org/name[/folder][@revision] of the hub, "
                  "s3://bucket/path or https://host/path (default: what the name says)");
  declare->HubToken(add);
  add->add_flag("--replace", declare->flags()->replace,
                "Move the name to other content; running streams keep the old");
  add->add_option("--expected-generation", declare->flags()->expected_generation,
                  "Only if the name has this content now: its digest, or 8 digits of it");
  CLI::App* list = declare->Sub("list", "All adapters and where they are", List);
  list->add_option("--prefix", declare->flags()->prefix, "Only ids that start so");
  declare->HubToken(declare->OneId("get", "Adapter id", "Everything about one adapter", Get));
  declare->HubToken(declare->OneId("check",
                                   "Folder beneath the root, adapter id, or repository of the hub",
                                   "Dry run of the loader; 0 only when it can be served", Check));
  declare->HubToken(
      declare->ManyIds("delete", "Remove names; a folder's own name stays hidden", Delete));
}

void DeclareMerging(Declare* declare) {
  AdapterFlags* flags = declare->flags();
  CLI::App* merge = declare->Sub("merge", "Make one adapter of several", Merge);
  declare->HubToken(merge);
  merge->add_option("name", flags->name, "The name to give")->required();
  merge->add_option("parts", flags->parts, "NAME=WEIGHT, two to eight")->required()->expected(1, 8);
  merge->add_option("--method", flags->method, "How")
      ->check(CLI::IsMember(MergeMethods()))
      ->capture_default_str();
  merge->add_option("--density", flags->density,
                    "Share of the values that stay, above 0: all but linear and cat need it");
  merge->add_option("--majority-sign", flags->majority_sign, "Which sign wins in ties, dare_ties")
      ->check(CLI::IsMember({"total", "frequency"}))
      ->capture_default_str();
  merge->add_option("--seed", flags->seed, "What dare_linear and dare_ties drop (0)");
  merge->add_flag("--replace", flags->replace, "Move the name to other content");
  merge->add_option("--expected-generation", flags->expected_generation,
                    "Only if the name has this content now");
}

void DeclareMovingNames(Declare* declare) {
  CLI::App* back = declare->ManyIds("rollback", "Move a name to an earlier generation", Rollback);
  back->add_option("--to", declare->flags()->to,
                   "Its digest, 8 digits or more (default: the one before)");
  back->add_option("--expected-generation", declare->flags()->expected_generation,
                   "Only if the name has this content now");
  CLI::App* alias = declare->Sub("alias", "Let a name stand for an adapter", Alias);
  alias->add_option("names", declare->flags()->ids, "The alias, and the adapter it stands for")
      ->required()
      ->expected(2);
  alias->add_flag("--replace", declare->flags()->replace, "Point it elsewhere");
  alias->add_option("--expected-generation", declare->flags()->expected_generation,
                    "Only if the alias stands for this content now");
  declare->HubToken(alias);
  CLI::App* import = declare->Sub("import", "Register a whole folder of adapters", Import);
  import->add_option("group", declare->flags()->group,
                     "Folder of folders beneath the adapters root (default: \".\", the root)");
  import->add_flag("--strip-group", declare->flags()->strip_group, "Name a/b just b");
  import->add_flag("--replace", declare->flags()->replace,
                   "Move names that exist, those of the hub to what it has now");
  declare->HubToken(import);
}

void DeclareMoving(Declare* declare) {
  CLI::App* load = declare->ManyIds("load", "Bring to a tier and wait until there", Load);
  declare->Tier(load, "--tier", &AdapterFlags::tier, "Where to", {"host", "device"});
  declare->HubToken(load);
  CLI::App* evict = declare->ManyIds("evict", "Take down to a tier", Evict);
  declare->Tier(evict, "--down-to", &AdapterFlags::down_to, "Where to", {"source", "host"});
  evict->add_flag("--wait-for-streams", declare->flags()->wait_for_streams,
                  "Wait until the streams that use it have ended");
  declare->HubToken(evict);
  CLI::App* pin = declare->ManyIds("pin", "Keep in a tier until unpinned", Pin);
  declare->Tier(pin, "--tier", &AdapterFlags::tier, "Where", {"host", "device"});
  declare->HubToken(pin);
  declare->HubToken(declare->ManyIds("unpin", "Let it be evicted again", Unpin));
  CLI::App* watch = declare->Sub("watch", "Print changes until Ctrl-C", Watch);
  watch->add_option("--interval-ms", declare->flags()->interval_ms,
                    "How often the server looks (500)");
  watch
      ->add_option("--count", declare->flags()->count,
                   "Leave after so many events, of one or more lines each; 0 = never")
      ->check(CLI::NonNegativeNumber);
}

}  // namespace

void AddAdapters(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* parent = app->add_subcommand("adapters", "Name, inspect and move adapters");
  parent->require_subcommand(1);
  parent->footer(kExamples);
  Declare declare(parent, context, action);
  DeclareNaming(&declare);
  DeclareMerging(&declare);
  DeclareMovingNames(&declare);
  DeclareMoving(&declare);
  for (CLI::App* sub : parent->get_subcommands({})) sub->fallthrough();
}

}  // namespace lorica
