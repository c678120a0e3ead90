#include "server/http/openai_routes.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "adapters/hub/steady_now.h"
#include "server/http/errors.h"
#include "server/http/fields.h"
#include "server/http/openai_answer.h"
#include "server/http/openai_request.h"

namespace lorica {
namespace {

constexpr char kModelPath[] = "/v1/models/";

void Refuse(const absl::Status& status, HttpReply& reply) {
  SendError(OpenAiError(status), status, reply);
}

// An adapter that is not there is a model that does not exist.
absl::Status AsModelError(const absl::Status& status, const std::string& model) {
  return absl::IsNotFound(status) ? NoSuchModel(model) : status;
}

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
  std::vector<bool> counted;  // whose prompt is in it

  void Add(const AnswerEnd& end, size_t prompt) {
    completion_tokens += end.completion_tokens;
    if (counted[prompt]) return;
    counted[prompt] = true;
    prompt_tokens += end.prompt_tokens;
    cached_tokens += end.cached_tokens;
  }
  OrderedJson json() const { return UsageJson(prompt_tokens, completion_tokens, cached_tokens); }
};

// The request while its answers come in.
class Exchange {
 public:
  Exchange(const HttpContext* context, OpenAiRequest request, std::shared_ptr<AnswerSet> answers,
           const std::string& id, HttpReply* reply)
      : request_(std::move(request)),
        answers_(std::move(answers)),
        head_(OpenAiHead(request_, id, absl::Now(), context->facts().version)),
        path_(reply->path()),
        notes_(reply->notes()) {
    for (size_t i = 0; i < answers_->size(); ++i) {
      choices_.push_back(std::make_unique<OpenAiChoice>(&request_, context->gateway(), Prompt(i)));
    }
    usage_.counted.resize(request_.calls.size());
    begun_.resize(answers_->size());
  }

  bool stream() const { return request_.stream; }

  // The whole answer, or why there is none.
  absl::StatusOr<OrderedJson> Whole(Peer& peer) {
    absl::Status failed;
    const bool all = answers_->Run(peer, [&](AnswerSet::Piece piece) {
      OpenAiChoice& choice = *choices_[piece.index];
      choice.Add(piece.chunk);
      if (!piece.end) return true;
      failed = piece.end->status;
      Count(piece.index, *std::move(piece.end));
      return failed.ok();
    });
    if (!failed.ok()) return InWordsOf(request_.names, failed);
    if (!all) return absl::CancelledError("the client has gone");
    OrderedJson json = head_;
    json["choices"] = Chosen();
    json["usage"] = usage_.json();
    if (request_.chat && request_.prompt_logprobs) {
      json["prompt_logprobs"] = choices_[0]->PromptLogprobs();
    }
    return json;
  }

  // Until a stream begins, what fails can be an error of the whole request. Waits for its first
  // piece, but not so long that somebody on the way believes the connection dead.
  absl::Status AwaitFirst(Peer& peer) {
    const absl::Time end = SteadyNow() + kKeepAliveInterval;
    bool waits = true;
    answers_->Run(
        peer,
        [&](AnswerSet::Piece piece) {
          first_ = std::move(piece);
          return waits = false;
        },
        [&] { return waits = SteadyNow() < end; });
    if (waits) return absl::CancelledError("the client has gone");
    if (!first_ || !first_->end || first_->end->status.ok()) return absl::OkStatus();
    NoteEnd(*first_->end, path_, notes_);
    return InWordsOf(request_.names, first_->end->status);
  }

  // REQUIRES: AwaitFirst was OK.
  void Stream(EventStream& events) {
    absl::Status failed;
    absl::Time written = first_ ? SteadyNow() : absl::InfinitePast();
    const auto take = [&](AnswerSet::Piece piece) {
      written = SteadyNow();
      if (piece.end) failed = piece.end->status;
      return WritePiece(std::move(piece), events) && failed.ok();
    };
    if (first_ && !take(*std::exchange(first_, std::nullopt))) return;
    const bool all = answers_->Run(events, take, [&] {
      if (SteadyNow() - written < kKeepAliveInterval) return true;
      written = SteadyNow();
      return events.KeepAlive();
    });
    if (!failed.ok()) {
      events.Write(Dump(OpenAiError(InWordsOf(request_.names, failed)).body));
    } else if (all) {
      if (request_.usage_in_stream) {
        OrderedJson last = head_;
        last["choices"] = OrderedJson::array();
        last["usage"] = usage_.json();
        events.Write(Dump(last));
      }
      events.Write("[DONE]");
    }
  }

 private:
  int Prompt(size_t answer) const { return static_cast<int>(answer) / request_.samples; }

  void Count(size_t index, AnswerEnd end) {
    NoteEnd(end, path_, notes_);
    usage_.Add(end, Prompt(index));
    choices_[index]->End(std::move(end));
  }

  // The best of each prompt's samples, in the order of the prompts.
  OrderedJson Chosen() {
    OrderedJson chosen = OrderedJson::array();
    for (size_t begin = 0; begin < choices_.size(); begin += request_.samples) {
      const auto first = choices_.begin() + begin;
      if (request_.samples > request_.choices) {
        std::stable_sort(first, first + request_.samples, [](const auto& a, const auto& b) {
          return a->mean_logprob() > b->mean_logprob();
        });
      }
      for (int i = 0; i < request_.choices; ++i) {
        chosen.push_back(first[i]->Whole(static_cast<int>(chosen.size())));
      }
    }
    return chosen;
  }

  bool WriteChunk(OrderedJson choice, EventStream& events) {
    OrderedJson chunk = head_;
    chunk["choices"] = OrderedJson::array({std::move(choice)});
    if (request_.usage_in_stream) chunk["usage"] = nullptr;
    return events.Write(Dump(chunk));
  }

  bool WritePiece(AnswerSet::Piece piece, EventStream& events) {
    const int index = static_cast<int>(piece.index);
    OpenAiChoice& choice = *choices_[piece.index];
    choice.Add(piece.chunk);
    const bool first = !begun_[piece.index];
    begun_[piece.index] = true;
    if ((first || choice.has_part()) && !WriteChunk(choice.Part(index, first), events)) {
      return false;
    }
    if (!piece.end) return true;
    const bool ok = piece.end->status.ok();
    Count(piece.index, *std::move(piece.end));
    return !ok || WriteChunk(choice.LastPart(index), events);
  }

  const OpenAiRequest request_;
  const std::shared_ptr<AnswerSet> answers_;
  const OrderedJson head_;
  const std::string path_;
  AccessNotes& notes_;
  std::optional<AnswerSet::Piece> first_;  // of a stream
  std::vector<std::unique_ptr<OpenAiChoice>> choices_;
  std::vector<bool> begun_;
  Usage usage_;
};

void Generate(const HttpContext& context, bool chat, const HttpRequest& http, HttpReply& reply) {
  const auto body = ParseJson(http.body);
  if (!body.ok()) return Refuse(body.status(), reply);
  const OpenAiFacts facts{context.facts().model, context.facts().adapters_dir};
  auto request = (chat ? ParseChat : ParseCompletion)(*body, http.body, facts);
  if (!request.ok()) return Refuse(request.status(), reply);
  for (GenerateCall& call : request->calls) {
    call.adapter_headers = http.Values("x-adapter-id");
  }
  const std::string named = AdaptersOf(request->calls[0]);
  if (!named.empty()) request->model = named;
  auto answers = context.Generate(http, request->calls, request->samples, reply);
  if (!answers.ok()) {
    const absl::Status status = InWordsOf(request->names, answers.status());
    return Refuse(AsModelError(status, request->model), reply);
  }
  auto exchange = std::make_shared<Exchange>(&context, *std::move(request), *std::move(answers),
                                             http.id, &reply);
  if (exchange->stream()) {
    const absl::Status begun = exchange->AwaitFirst(reply);
    if (!begun.ok()) return Refuse(begun, reply);
    return reply.SendEvents([exchange](EventStream& events) { exchange->Stream(events); });
  }
  const auto whole = exchange->Whole(reply);
  if (!whole.ok()) return Refuse(whole.status(), reply);
  reply.Send(200, Dump(*whole));
}

void RefuseEmbeddings(const HttpContext& context, const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return Refuse(tenant.status(), reply);
  Refuse(
      absl::FailedPreconditionError("this server's model generates text; it makes no embeddings"),
      reply);
}

// --- models ------------------------------------------------------------------------------

OrderedJson ModelJson(const HttpContext& context, const std::string& id, const std::string& root,
                      const std::string& parent, absl::Time created) {
  OrderedJson model;
  model["id"] = id;
  model["object"] = "model";
  model["created"] = absl::ToUnixSeconds(created);
  model["owned_by"] = "lorica";
  model["root"] = root;
  model["parent"] = parent.empty() ? OrderedJson() : OrderedJson(parent);
  model["max_model_len"] = context.gateway()->limits().context_tokens;
  return model;
}

OrderedJson BaseJson(const HttpContext& context) {
  return ModelJson(context, context.facts().model, context.facts().model, "",
                   context.facts().started);
}

// When its name came to stand for what it is; of a folder's own name nobody knows.
OrderedJson AdapterJson(const HttpContext& context, const CatalogEntry& entry) {
  return ModelJson(context, entry.adapter_id, entry.location, context.facts().model,
                   entry.registered_at.value_or(context.facts().started));
}

void ListModels(const HttpContext& context, const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return Refuse(tenant.status(), reply);
  OrderedJson models = OrderedJson::array({BaseJson(context)});
  bool has_more = false;
  const absl::Status status = context.RunWork([&] {
    auto entries =
        context.gateway()->catalog()->List((*tenant)->name, "", "", kListedModelsMax + 1);
    if (!entries.ok()) return entries.status();
    has_more = std::ssize(*entries) > kListedModelsMax;
    if (has_more) entries->pop_back();
    for (const CatalogEntry& entry : *entries) {
      models.push_back(AdapterJson(context, entry));
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return Refuse(status, reply);
  OrderedJson json;
  json["object"] = "list";
  json["data"] = std::move(models);
  json["has_more"] = has_more;
  reply.Send(200, Dump(json));
}

void GetModel(const HttpContext& context, const HttpRequest& http, HttpReply& reply) {
  const auto tenant = context.Authenticate(http, reply);
  if (!tenant.ok()) return Refuse(tenant.status(), reply);
  const std::string id = http.path.substr(sizeof kModelPath - 1);
  if (id == context.facts().model) return reply.Send(200, Dump(BaseJson(context)));
  if (!CheckAdapterId(id).ok()) return Refuse(NoSuchModel(id), reply);
  OrderedJson model;
  const absl::Status status = context.RunAdapterWork([&] {
    const auto entry = context.gateway()->catalog()->Get((*tenant)->name, id);
    if (!entry.ok()) return entry.status();
    model = AdapterJson(context, *entry);
    return absl::OkStatus();
  });
  if (!status.ok()) return Refuse(AsModelError(status, id), reply);
  reply.Send(200, Dump(model));
}

}  // namespace

void AddOpenAiRoutes(const HttpContext* context, HttpRoutes* routes) {
  const auto bind = [context](void (*route)(const HttpContext&, const HttpRequest&, HttpReply&)) {
    return [=](const HttpRequest& request, HttpReply& reply) { route(*context, request, reply); };
  };
  (*routes)["/v1/models"]["GET"] = bind(ListModels);
  (*routes)["/v1/embeddings"]["POST"] = bind(RefuseEmbeddings);
  (*routes)[absl::StrCat(kModelPath, "*")]["GET"] = bind(GetModel);
  for (const bool chat : {false, true}) {
    (*routes)[chat ? "/v1/chat/completions" : "/v1/completions"]["POST"] =
        [context, chat](const HttpRequest& request, HttpReply& reply) {
          Generate(*context, chat, request, reply);
        };
  }
}

}  // namespace lorica
