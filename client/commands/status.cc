// `lorica status` and `lorica tokenize`: small looks at a server.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/commands/terminal.h"
#include "client/steady_time.h"

namespace lorica {
namespace {

constexpr char kStatusExamples[] = R"(Examples:
  lorica status
  lorica status --wait 60 && lorica generate "Once upon"    wait for a start, then go on
  lorica status --json | jq .counters

The exit code is 0 only when the server is SERVING, 3 when nobody answers, 4 when it
answers but is starting, draining or has failed.)";

constexpr char kTokenizeExamples[] = R"(Examples:
  lorica tokenize "Hello, world"
  lorica tokenize --chat "Hello"     through the model's chat template)";

std::string StateName(v1::ServingState state) {
  v1::GetStatusResponse named;
  named.set_state(state);
  const Json name = MessageToJson(named)["state"];
  return name.is_string() ? absl::AsciiStrToUpper(name.get<std::string>()) : "UNKNOWN";
}

void Row(const std::string& label, const std::string& text) {
  std::printf(
      "%s%s\n",
      Paint(Ink::kBold, absl::StrCat(label, std::string(12 - label.size(), ' ')), stdout).c_str(),
      Printable(text).c_str());
}

std::string Tier(const v1::TierCounters& tier) {
  return absl::StrCat(HumanBytes(tier.bytes()), " of ", HumanBytes(tier.byte_limit()), ", ",
                      HumanCount(tier.adapters()), " adapters; ", HumanCount(tier.hits()),
                      " hits, ", HumanCount(tier.misses()), " misses, ",
                      HumanCount(tier.evictions()), " evictions");
}

void PrintModel(const v1::ModelInfo& model) {
  Row("model", absl::StrCat(model.name(), " (", model.architecture(), ", ", model.weight_format(),
                            ", ", HumanBytes(model.weight_bytes()), ")"));
  Row("",
      absl::StrCat(model.layers(), " layers × ", model.hidden_size(), ", vocabulary ",
                   HumanCount(model.vocabulary()), ", context ", HumanCount(model.context_tokens()),
                   " tokens", model.has_tokenizer() ? "" : ", no tokenizer: token ids only",
                   model.has_chat_template() ? "" : ", no chat template"));
}

void PrintFetches(const v1::GetStatusResponse& status) {
  const v1::FetchCounters& fetches = status.fetches();
  Row("on disk", Tier(status.disk_tier()));
  Row("fetches",
      absl::StrCat(HumanCount(fetches.fetched()), " fetched, ",
                   HumanBytes(fetches.downloaded_bytes()), ", ", HumanCount(fetches.failed()),
                   " failed, ", fetches.under_way(), " under way; ",
                   HumanCount(fetches.refreshes()), " looks at branches"));
}

void PrintLoad(const v1::GetStatusResponse& status) {
  const v1::Limits& limits = status.limits();
  Row("requests", absl::StrCat(status.running(), " of ", limits.running_requests(), " running, ",
                               status.queued(), " of ", limits.queue_requests(), " queued",
                               status.waiting() > 0
                                   ? absl::StrCat(", ", status.waiting(), " waiting for adapters")
                                   : ""));
  Row("arena", absl::StrCat(HumanCount(limits.arena_blocks()), " blocks of ",
                            HumanBytes(limits.block_bytes()), ": ", HumanCount(status.kv_blocks()),
                            " KV, ", HumanCount(status.prefix_blocks()), " kept prefixes, ",
                            HumanCount(status.adapter_blocks()), " adapters, ",
                            HumanCount(status.free_blocks()), " free"));
  Row("on device", Tier(status.device_tier()));
  Row("on host", Tier(status.host_tier()));
  if (status.has_fetches()) PrintFetches(status);
  Row("memory", absl::StrCat(HumanBytes(status.resident_bytes()), " resident"));
}

void PrintCounters(const v1::GetStatusResponse& status) {
  const v1::Counters& c = status.counters();
  Row("so far", absl::StrCat(HumanCount(c.requests_accepted()), " accepted, ",
                             HumanCount(c.requests_finished()), " finished, ",
                             HumanCount(c.requests_cancelled()), " cancelled, ",
                             HumanCount(c.requests_refused()), " refused, ",
                             HumanCount(c.requests_failed()), " failed"));
  Row("",
      absl::StrCat(HumanCount(c.prompt_tokens()), " prompt and ", HumanCount(c.generated_tokens()),
                   " generated tokens in ", HumanCount(c.steps()), " steps, ",
                   HumanCount(c.preemptions()), " preemptions"));
  Row("", absl::StrCat(HumanCount(c.adapter_loads()), " adapter loads, ",
                       HumanCount(c.adapter_load_failures()), " failed, ",
                       status.loading_adapters(), " loading now"));
  Row("step", absl::StrCat(Fixed(status.step_ms_p50(), 1), " ms p50, ",
                           Fixed(status.step_ms_p99(), 1), " ms p99"));
}

void PrintLimits(const v1::Limits& limits) {
  Row("limits", absl::StrCat("context ", HumanCount(limits.context_tokens()), " tokens, ",
                             limits.batch_rows(), " rows a step, queue ",
                             HumanCount(limits.queue_tokens()), " tokens"));
  Row("", absl::StrCat("rank ", limits.adapter_rank(), ", ", limits.mix_adapters(),
                       " adapters a mix, message ", HumanBytes(limits.message_bytes()), ", ",
                       limits.concurrent_streams(), " streams a connection, ", limits.threads(),
                       " threads"));
}

void PrintStatus(const CommandContext& context, const v1::GetStatusResponse& status) {
  const bool serving = status.state() == v1::SERVING_STATE_SERVING;
  std::printf(
      "%s  %s, lorica %s on %s, up %s\n",
      Paint(serving ? Ink::kGreen : Ink::kYellow, StateName(status.state()), stdout).c_str(),
      context.server.c_str(), Printable(status.version()).c_str(),
      Printable(status.device()).c_str(), HumanDuration(status.uptime_seconds()).c_str());
  PrintModel(status.model());
  PrintLoad(status);
  PrintCounters(status);
  PrintLimits(status.limits());
}

// A server that is still starting may answer already: with --wait, so do we.
absl::StatusOr<v1::GetStatusResponse> StatusWhenServing(const CommandContext& context,
                                                        LoricaClient* client) {
  const absl::Time end = SteadyTime() + absl::Seconds(context.wait_s);
  for (;;) {
    auto status = client->GetStatus(context.Call());
    const bool starting = status.ok() && status->state() == v1::SERVING_STATE_STARTING;
    if (!starting || SteadyTime() >= end) return status;
    absl::SleepFor(absl::Milliseconds(100));
  }
}

int Status(const CommandContext& context) {
  auto client = context.MakeClient();
  auto status = StatusWhenServing(context, client.get());
  if (!status.ok()) return Fail(context, status.status());
  if (context.json) {
    PrintJson(MessageToJson(*status));
  } else {
    PrintStatus(context, *status);
  }
  if (status->state() == v1::SERVING_STATE_SERVING) return kExitOk;
  std::fprintf(stderr, "lorica: the server at %s answers but is %s, not SERVING\n",
               context.server.c_str(), StateName(status->state()).c_str());
  return kExitNotServing;
}

struct TokenizeFlags {
  std::string text;
  bool chat = false;
};

int Tokenize(const CommandContext& context, const TokenizeFlags& flags) {
  v1::TokenizeRequest request;
  if (flags.chat) {
    v1::ChatMessage* message = request.add_messages();
    message->set_role("user");
    message->set_content(flags.text);
  } else {
    request.set_prompt(flags.text);
  }
  auto response = context.MakeClient()->Tokenize(request, context.Call());
  if (!response.ok()) return Fail(context, response.status());
  if (context.json) {
    PrintJson(MessageToJson(*response));
    return kExitOk;
  }
  Table table({">position", ">id", "token"});
  for (int i = 0; i < response->token_ids_size(); ++i) {
    const std::string token = i < response->tokens_size() ? response->tokens(i) : "";
    table.AddRow({absl::StrCat(i), absl::StrCat(response->token_ids(i)), ToLine(Json(token))});
  }
  std::printf("%s", table.ToString(stdout).c_str());
  return kExitOk;
}

}  // namespace

void AddStatus(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* sub = app->add_subcommand("status", "How the server is doing; 0 only when SERVING");
  sub->footer(kStatusExamples);
  sub->callback([=] { *action = [=] { return Status(*context); }; });
}

void AddTokenize(CLI::App* app, const CommandContext* context, Action* action) {
  CLI::App* sub = app->add_subcommand("tokenize", "Text as the tokens the model would see");
  auto flags = std::make_shared<TokenizeFlags>();
  sub->add_option("text", flags->text, "The text")->required();
  sub->add_flag("--chat", flags->chat, "As a user's message through the chat template");
  sub->footer(kTokenizeExamples);
  sub->callback([=] { *action = [=] { return Tokenize(*context, *flags); }; });
}

}  // namespace lorica
