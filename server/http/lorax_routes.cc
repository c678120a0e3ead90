#include "server/http/lorax_routes.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "server/api/field_error.h"
#include "server/http/errors.h"
#include "server/http/fields.h"
#include "server/http/lorax_answer.h"
#include "server/http/lorax_request.h"
#include "server/text/utf8.h"

namespace lorica {
namespace {

void Refuse(const absl::Status& status, HttpReply& reply) {
  SendError(LoraxError(status), status, reply);
}

void RefuseSyntax(const absl::Status& status, HttpReply& reply) {
  SendError(LoraxSyntaxError(status), status, reply);
}

// `begun`: whoever has tokens already and gets no more has half an answer.
std::string ErrorEvent(const absl::Status& status, bool begun, AccessNotes& notes) {
  notes.code = absl::StatusCodeToString(status.code());
  OrderedJson body = LoraxError(status).body;
  if (begun && absl::IsUnavailable(status)) body["error_type"] = "incomplete_generation";
  return Dump(body);
}

int64_t Whole(absl::Duration duration) { return absl::ToInt64Milliseconds(duration); }

// Where a call's adapters come from: one word, or one for each where they differ.
std::string SourcesOf(const HttpContext& context, const std::string& tenant,
                      const GenerateCall& call) {
  std::vector<std::string> sources;
  for (const std::string& id : AdapterIdsOf(call)) {
    sources.emplace_back(context.gateway()->catalog()->SourceOf(tenant, id));
  }
  const bool one = std::all_of(sources.begin(), sources.end(),
                               [&sources](const auto& source) { return source == sources[0]; });
  return one ? sources[0] : absl::StrJoin(sources, ",");
}

// What does not need the answer; streams send their headers before they have one.
void SetEarlyHeaders(const HttpContext& context, const LoraxRequest& request, HttpReply& reply) {
  reply.SetHeader("x-compute-type",
                  context.facts().device.starts_with("cpu") ? "cpu" : "gpu+optimized");
  reply.SetHeader("x-compute-characters", absl::StrCat(CountCharacters(request.input)));
  reply.SetHeader("x-model-id", context.facts().model);
  const std::string adapter = AdaptersOf(request.call);
  if (adapter.empty() || adapter == context.facts().model) return;
  reply.SetHeader("x-adapter-id", adapter);
  reply.SetHeader("x-adapter-source", SourcesOf(context, reply.notes().tenant, request.call));
}

void SetLateHeaders(const AnswerEnd& end, int64_t generated, absl::Duration total,
                    HttpReply& reply) {
  const auto set = [&reply](const char* name, int64_t value) {
    reply.SetHeader(name, absl::StrCat(value));
  };
  const absl::Duration inference = end.timings.total - end.timings.queue;
  const absl::Duration first = end.timings.first_token;
  set("x-compute-time", Whole(total));
  set("x-total-time", Whole(total));
  set("x-prompt-tokens", end.prompt_tokens);
  set("x-generated-tokens", generated);
  set("x-skipped-tokens", 0);
  set("x-total-tokens", end.prompt_tokens + generated);
  set("x-validation-time", Whole(std::max(absl::ZeroDuration(), total - end.timings.total)));
  set("x-queue-time", Whole(end.timings.queue));
  set("x-inference-time", Whole(inference));
  set("x-time-per-token", Whole(inference / std::max<int64_t>(1, generated)));
  set("x-time-to-first-token", Whole(first));
  set("x-time-per-output-token",
      Whole((end.timings.total - first) / std::max<int64_t>(1, generated - 1)));
}

OrderedJson WholeAnswer(const LoraxRequest& request,
                        std::vector<std::unique_ptr<LoraxAnswer>> answers) {
  std::stable_sort(answers.begin(), answers.end(), [](const auto& a, const auto& b) {
    return a->mean_logprob() > b->mean_logprob();
  });
  OrderedJson json;
  json["generated_text"] = answers[0]->text();
  if (!request.details) return json;
  json["details"] = answers[0]->Details(/*of_stream=*/false);
  for (size_t i = 1; i < answers.size(); ++i) {
    json["details"]["best_of_sequences"].push_back(answers[i]->Sequence());
  }
  return json;
}

void SendWhole(const HttpContext& context, const LoraxRequest& request, AnswerSet& set,
               bool as_array, absl::Time began, HttpReply& reply) {
  std::vector<std::unique_ptr<LoraxAnswer>> answers;
  for (size_t i = 0; i < set.size(); ++i) {
    answers.push_back(
        std::make_unique<LoraxAnswer>(&request, context.gateway(), static_cast<int>(i)));
  }
  absl::Status failed;
  int64_t generated = 0;
  const bool whole = set.Run(reply, [&](AnswerSet::Piece piece) {
    answers[piece.index]->Add(piece.chunk);
    if (!piece.end) return true;
    NoteEnd(*piece.end, reply.path(), reply.notes());
    failed = piece.end->status;
    generated += piece.end->completion_tokens;
    answers[piece.index]->End(*std::move(piece.end));
    return failed.ok();
  });
  if (!whole && failed.ok()) failed = absl::CancelledError("the client has gone");
  if (!failed.ok()) return Refuse(failed, reply);
  SetLateHeaders(*answers[0]->end(), generated, SteadyNow() - began, reply);
  OrderedJson json = WholeAnswer(request, std::move(answers));
  reply.Send(200, Dump(as_array ? OrderedJson::array({std::move(json)}) : std::move(json)));
}

// One event a token. The end belongs to the last token's event, so that one waits for it.
class TokenStream {
 public:
  TokenStream(const LoraxRequest* request, const Gateway* gateway, const std::string& path,
              EventStream* events, AccessNotes* notes)
      : request_(*request),
        answer_(request, gateway, 0),
        path_(path),
        events_(*events),
        notes_(*notes) {}

  bool Add(AnswerSet::Piece piece) {
    std::vector<OrderedJson> tokens = answer_.Add(piece.chunk);
    if (piece.end) {
      NoteEnd(*piece.end, path_, notes_);
      answer_.End(std::move(piece.end).value());
    }
    for (OrderedJson& token : tokens) {
      if (!Flush()) return false;
      held_ = std::move(token);
    }
    if (answer_.end()) return End();
    return piece.chunk.last || Flush();
  }

 private:
  bool Flush() {
    if (held_.is_null()) return true;
    return events_.Write(Dump(Event(std::exchange(held_, nullptr))));
  }
  static OrderedJson Event(OrderedJson token) {
    OrderedJson event;
    event["token"] = std::move(token);
    event["generated_text"] = nullptr;
    event["details"] = nullptr;
    return event;
  }
  bool End() {
    const absl::Status& status = answer_.end()->status;
    if (!status.ok()) return Flush() && events_.Write(EndOfError(status));
    if (held_.is_null()) {
      return events_.Write(EndOfError(absl::UnavailableError("the stream has no end")));
    }
    OrderedJson event = Event(std::move(held_));
    event["generated_text"] = answer_.text();
    if (request_.details) event["details"] = answer_.Details(/*of_stream=*/true);
    std::string line = Dump(event);
    if (std::ssize(line) > kLoraxEventBytesMax) {  // the tokens had it all
      event["generated_text"] = nullptr;
      line = Dump(event);
    }
    return events_.Write(line);
  }
  std::string EndOfError(const absl::Status& status) {
    return ErrorEvent(status, !answer_.text().empty(), notes_);
  }

  const LoraxRequest& request_;
  LoraxAnswer answer_;
  const std::string path_;
  EventStream& events_;
  AccessNotes& notes_;
  OrderedJson held_;
};

void SendStream(const HttpContext& context, std::shared_ptr<LoraxRequest> request,
                std::shared_ptr<AnswerSet> set, HttpReply& reply) {
  reply.SendEvents(
      [&context, request, set, path = reply.path(), &notes = reply.notes()](EventStream& events) {
        TokenStream stream(request.get(), context.gateway(), path, &events, &notes);
        absl::Time written = SteadyNow();
        set->Run(
            events,
            [&](AnswerSet::Piece piece) {
              written = SteadyNow();
              return stream.Add(std::move(piece));
            },
            [&] {
              if (SteadyNow() - written < kKeepAliveInterval) return true;
              written = SteadyNow();
              return events.KeepAlive();
            });
      });
}

// Errors of streams are events of an answer that is OK, but for those that LoRAX has not.
void RefuseStream(const absl::Status& status, HttpReply& reply) {
  const HttpError error = LoraxError(status);
  if (error.status == 401 || error.status == 403 || error.status == 503) {
    return SendError(error, status, reply);
  }
  LogRefusalOnce(status, reply);
  reply.SendEvents([event = ErrorEvent(status, /*begun=*/false, reply.notes())](
                       EventStream& events) { events.Write(event); });
}

void Generate(const HttpContext& context, LoraxStream streams, bool as_array,
              const HttpRequest& http, HttpReply& reply) {
  const absl::Time began = SteadyNow();
  const auto body = ParseJson(http.body);
  if (!body.ok()) return RefuseSyntax(body.status(), reply);
  auto parsed = ParseLoraxRequest(*body, http.body, streams, context.facts().adapters_dir);
  const bool stream = parsed.ok() ? parsed->stream
                                  : streams == LoraxStream::kAlways ||
                                        (streams == LoraxStream::kAsAsked && body->is_object() &&
                                         body->value("stream", Json()) == Json(true));
  const auto refuse = [&](const absl::Status& status) {
    stream ? RefuseStream(status, reply) : Refuse(status, reply);
  };
  if (!parsed.ok()) return refuse(parsed.status());
  auto request = std::make_shared<LoraxRequest>(*std::move(parsed));
  request->call.adapter_headers = http.Values("x-adapter-id");
  auto answers = context.Generate(http, {request->call}, request->best_of, reply);
  if (!answers.ok()) return refuse(answers.status());
  SetEarlyHeaders(context, *request, reply);
  if (stream) return SendStream(context, std::move(request), *std::move(answers), reply);
  SendWhole(context, *request, **answers, as_array, began, reply);
}

// Routes of LoRAX's that need a model of another kind.
void RefuseKind(const HttpContext& context, const char* what, const HttpRequest& http,
                HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return Refuse(tenant.status(), reply);
  Refuse(absl::FailedPreconditionError(absl::StrCat("this server's model generates text; ", what)),
         reply);
}

void Info(const HttpContext& context, const HttpRequest&, HttpReply& reply) {
  const HttpFacts& facts = context.facts();
  const int64_t total = context.gateway()->limits().context_tokens;
  OrderedJson json;
  json["model_id"] = facts.model;
  json["model_sha"] = nullptr;
  json["model_dtype"] = facts.weight_format;
  json["model_device_type"] = facts.device.substr(0, facts.device.find(' '));
  json["model_pipeline_tag"] = "text-generation";
  json["max_concurrent_requests"] = facts.generations_max;
  json["max_best_of"] = kSamplesMax;
  json["max_stop_sequences"] = kStopStringsMax;
  json["max_input_length"] = total - 1;
  json["max_total_tokens"] = total;
  json["waiting_served_ratio"] = 0.0;
  json["max_batch_total_tokens"] = facts.arena_blocks * kBlockTokens;
  json["max_waiting_tokens"] = 0;
  json["validation_workers"] = kHttpWorkThreads;
  json["eager_prefill"] = true;
  json["version"] = facts.version;
  json["sha"] = nullptr;
  json["docker_label"] = nullptr;
  json["request_logger_url"] = nullptr;
  reply.Send(200, Dump(json));
}

}  // namespace

void AddLoraxRoutes(const HttpContext* context, HttpRoutes* routes) {
  const auto generate = [context](LoraxStream streams, bool as_array) {
    return [=](const HttpRequest& request, HttpReply& reply) {
      Generate(*context, streams, as_array, request, reply);
    };
  };
  (*routes)["/"]["POST"] = generate(LoraxStream::kAsAsked, true);
  (*routes)["/invocations"]["POST"] = generate(LoraxStream::kAsAsked, true);
  (*routes)["/generate"]["POST"] = generate(LoraxStream::kNever, false);
  (*routes)["/generate_stream"]["POST"] = generate(LoraxStream::kAlways, false);
  for (const auto& [path, what] : {std::pair("/embed", "it makes no embeddings"),
                                   std::pair("/classify", "it does not classify"),
                                   std::pair("/classify_batch", "it does not classify")}) {
    (*routes)[path]["POST"] = [context, what = what](const HttpRequest& request, HttpReply& reply) {
      RefuseKind(*context, what, request, reply);
    };
  }
  (*routes)["/info"]["GET"] = [context](const HttpRequest& request, HttpReply& reply) {
    Info(*context, request, reply);
  };
}

}  // namespace lorica
