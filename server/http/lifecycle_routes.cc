#include "server/http/lifecycle_routes.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "server/api/field_error.h"
#include "server/api/request_checks.h"
#include "server/http/adapter_source.h"
#include "server/http/errors.h"
#include "server/http/fields.h"

namespace lorica {
namespace {

void Refuse(const absl::Status& status, HttpReply& reply) {
  SendError(OpenAiError(status), status, reply);
}

// One answer of the pool, which may come after nobody waits any more.
struct Outcome {
  absl::Mutex mutex;
  std::optional<absl::Status> status ABSL_GUARDED_BY(mutex);

  void Set(absl::Status result) {
    absl::MutexLock lock(&mutex);
    status = std::move(result);
  }
  bool there() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return status.has_value(); }
  absl::Status Await(absl::Time end, const std::string& name) {
    absl::MutexLock lock(&mutex);
    mutex.AwaitWithTimeout(absl::Condition(this, &Outcome::there), end - SteadyNow());
    if (status) return *status;
    return TryLater(absl::StrCat("adapter '", name, "' is still loading; call again"));
  }
};

struct Move {
  std::string name;
  std::string location;
  bool replace = false;
  bool pin = false;
};

absl::StatusOr<Move> ParseMove(std::string_view body, bool load, const std::string& adapters_dir) {
  const auto json = ParseJson(body);
  if (!json.ok()) return json.status();
  Fields fields(*json);
  Move move;
  move.name = fields.Text("lora_name").value_or("");
  fields.Add(CheckNamed("lora_name", move.name));
  if (load) {
    const auto location = AdapterBeneath(fields.Text("lora_path").value_or(""), adapters_dir);
    if (!location.ok()) {
      fields.Refuse("lora_path", "is an absolute path that is not beneath --adapters-dir");
    } else if (location->empty()) {
      fields.Refuse("lora_path", "is missing");
    } else {
      move.location = std::string(absl::StripPrefix(*location, "huggingface://"));
      fields.Add(CheckSource("lora_path", move.location));
    }
    move.replace = fields.Bool("load_inplace").value_or(false);
    move.pin = fields.Bool("pinned").value_or(false);
  }
  fields.Text("base_model_name");  // controllers' own name of the base
  if (!fields.status().ok()) return fields.status();
  return move;
}

AdapterCatalog::RegisterOptions OptionsOf(const Move& move) {
  return {.location = move.location, .replace = move.replace};
}

void SendDone(const std::string& message, const Move& move, const std::string& generation,
              HttpReply& reply) {
  OrderedJson json;
  json["success"] = true;
  json["message"] = message;
  json["error_message"] = "";
  json["lora_name"] = move.name;
  if (!generation.empty()) json["generation"] = generation;
  reply.Send(200, Dump(json));
}

// What has to be brought from a hub comes first, and is held; a fetch goes on when nobody
// waits any more.
absl::StatusOr<FoundAdapter> Fetch(const HttpContext& context, const std::string& tenant,
                                   const Move& move, absl::Time end) {
  absl::StatusOr<FoundAdapter> found = FoundAdapter();
  absl::Status status = context.RunAdapterWork([&] {
    found = context.gateway()->catalog()->FindSource(tenant, move.location, OptionsOf(move));
    return found.status();
  });
  if (!status.ok()) return status;
  if (found->ticket == nullptr) return found;
  const auto outcome = std::make_shared<Outcome>();
  found->ticket->WhenDone(
      [outcome](const absl::StatusOr<GenerationPtr>& fetched) { outcome->Set(fetched.status()); });
  status = outcome->Await(end, move.name);
  if (!status.ok()) return status;
  return found;
}

// Names it; what it is then.
absl::StatusOr<AdapterCatalog::Registered> Register(const HttpContext& context,
                                                    const std::string& tenant, const Move& move) {
  absl::StatusOr<AdapterCatalog::Registered> registered;
  const absl::Status status = context.RunAdapterWork([&] {
    registered = context.gateway()->catalog()->Register(tenant, move.name, OptionsOf(move));
    return registered.status();
  });
  if (absl::IsAlreadyExists(status)) {
    return absl::AlreadyExistsError(
        absl::StrReplaceAll(status.message(), {{"set replace", "send load_inplace"}}));
  }
  if (!status.ok()) return status;
  return registered;
}

// What the name was before, where it could not be loaded after all.
void TakeBack(const HttpContext& context, const std::string& tenant, const Move& move,
              const AdapterCatalog::Registered& registered) {
  (void)context.RunAdapterWork([&] {
    AdapterCatalog* const catalog = context.gateway()->catalog();
    if (registered.created) return catalog->Unregister(tenant, move.name);
    if (registered.replaced.empty()) return absl::OkStatus();
    return catalog->Rollback(tenant, move.name, registered.replaced, registered.generation->digest)
        .status();
  });
  context.gateway()->names()->Forget(registered.generation->digest, move.name);
}

void Load(const HttpContext& context, const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return Refuse(tenant.status(), reply);
  const auto move = ParseMove(http.body, /*load=*/true, context.facts().adapters_dir);
  if (!move.ok()) return Refuse(move.status(), reply);
  reply.notes().adapter = move->name;
  absl::Status status =
      CheckRole(**tenant, move->pin ? TenantRole::kOperator : TenantRole::kManager);
  if (!status.ok()) return Refuse(status, reply);
  const absl::Time end = SteadyNow() + kLifecycleWait;
  const auto fetched = Fetch(context, (*tenant)->name, *move, end);
  if (!fetched.ok()) return Refuse(fetched.status(), reply);
  const auto registered = Register(context, (*tenant)->name, *move);
  if (!registered.ok()) return Refuse(registered.status(), reply);
  context.gateway()->names()->Note(registered->generation->digest, move->name);
  const auto outcome = std::make_shared<Outcome>();
  const auto done = [outcome](absl::Status result) { outcome->Set(std::move(result)); };
  AdapterPool* const pool = context.gateway()->pool();
  move->pin ? pool->Pin(registered->generation, AdapterTier::kDevice, done)
            : pool->Load(registered->generation, AdapterTier::kDevice, done);
  status = outcome->Await(end, move->name);
  if (!status.ok()) {
    if (!absl::IsUnavailable(status)) TakeBack(context, (*tenant)->name, *move, *registered);
    return Refuse(status, reply);
  }
  SendDone(absl::StrCat("LoRA adapter '", move->name, "' is loaded"), *move,
           registered->generation->digest, reply);
}

// Streams that use it end first. Another name's use keeps it, and its pin.
void GiveBack(Gateway& gateway, const std::string& digest, const std::string& name) {
  const auto ignore = [](const absl::Status&) {};
  gateway.names()->Forget(digest, name);
  if (gateway.names()->NamesOf(digest).empty()) gateway.pool()->Unpin(digest, ignore);
  gateway.pool()->Evict(digest, AdapterTier::kSource, /*wait=*/true, ignore);
}

void Unload(const HttpContext& context, const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return Refuse(tenant.status(), reply);
  const auto move = ParseMove(http.body, /*load=*/false, context.facts().adapters_dir);
  if (!move.ok()) return Refuse(move.status(), reply);
  reply.notes().adapter = move->name;
  absl::Status status = CheckRole(**tenant, TenantRole::kManager);
  if (status.ok()) {
    status = context.RunAdapterWork([&] {
      AdapterCatalog* const catalog = context.gateway()->catalog();
      const auto entry = catalog->Get((*tenant)->name, move->name);
      const absl::Status deleted = catalog->Delete((*tenant)->name, move->name);
      if (deleted.ok() && entry.ok() && entry->generation != nullptr) {
        GiveBack(*context.gateway(), entry->generation->digest, move->name);
      }
      return deleted;
    });
  }
  if (!status.ok()) return Refuse(status, reply);
  SendDone(absl::StrCat("LoRA adapter '", move->name, "' is unloaded"), *move, "", reply);
}

}  // namespace

void AddLifecycleRoutes(const HttpContext* context, HttpRoutes* routes) {
  for (const char* prefix : {"/v1", ""}) {
    (*routes)[absl::StrCat(prefix, "/load_lora_adapter")]["POST"] =
        [context](const HttpRequest& request, HttpReply& reply) { Load(*context, request, reply); };
    (*routes)[absl::StrCat(prefix, "/unload_lora_adapter")]["POST"] =
        [context](const HttpRequest& request, HttpReply& reply) {
          Unload(*context, request, reply);
        };
  }
}

}  // namespace lorica
