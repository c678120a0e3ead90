#include "tests/fakes/fake_hub.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "adapters/hub/hasher.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kEndlessChunkBytes = 16 << 10;
constexpr absl::Duration kClearsPoll = absl::Milliseconds(20);

bool IsLarge(const std::string& path) {
  return absl::EndsWith(path, ".safetensors") || absl::EndsWith(path, ".bin");
}

std::string HashOf(const std::string& text, HashAlgorithm algorithm) {
  Hasher hasher(algorithm);
  hasher.Update(text);
  return hasher.Finish();
}

std::string GitHash(const std::string& content) {
  return HashOf(absl::StrCat("blob ", content.size(), std::string(1, '\0'), content),
                HashAlgorithm::kSha1);
}

std::string Sha256Of(const std::string& content) { return HashOf(content, HashAlgorithm::kSha256); }

// "bytes=5-" or "bytes=5-9".
bool ParseRange(const std::string& text, int64_t size, int64_t* first, int64_t* last) {
  if (!absl::StartsWith(text, "bytes=")) return false;
  const std::vector<std::string> parts = absl::StrSplit(text.substr(6), '-');
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], first)) return false;
  if (!absl::SimpleAtoi(parts[1], last)) *last = size - 1;
  *last = std::min(*last, size - 1);
  return true;
}

}  // namespace

FakeHub::FakeHub(const TlsFiles& tls)
    : secure_(!tls.certificate.empty()),
      cdn_(std::make_unique<WireServer>(
          [this](const WireRequest& request, WireServer::Connection& connection) {
            Answer("cdn", request, connection);
          },
          tls)),
      hub_(std::make_unique<WireServer>(
          [this](const WireRequest& request, WireServer::Connection& connection) {
            Answer("hub", request, connection);
          },
          tls)) {}

FakeHub::~FakeHub() {
  hub_ = nullptr;
  cdn_ = nullptr;
}

std::string FakeHub::endpoint() const {
  return absl::StrCat(secure_ ? "https://" : "http://", hub_->place());
}

std::string FakeHub::cdn_place() const { return cdn_->place(); }

std::string FakeHub::Commit(const std::string& repo, const Files& files,
                            const std::string& revision) {
  absl::MutexLock lock(&mutex_);
  const std::string commit = HashOf(absl::StrCat(repo, " ", ++commits_), HashAlgorithm::kSha1);
  for (const auto& [path, content] : files) {
    if (IsLarge(path)) blobs_[Sha256Of(content)] = content;
  }
  repos_[repo].commits[commit] = files;
  repos_[repo].revisions[revision] = commit;
  return commit;
}

FakeHub::Files FakeHub::FilesOf(const std::string& folder) {
  Files files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files[entry.path().filename()] =
        std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}

void FakeHub::SetAccess(const std::string& repo, HubAccess access, const std::string& token) {
  absl::MutexLock lock(&mutex_);
  repos_[repo].access = access;
  repos_[repo].token = token;
}

void FakeHub::Rename(const std::string& from, const std::string& to) {
  absl::MutexLock lock(&mutex_);
  repos_[to] = repos_[from];
  repos_.erase(from);
  renamed_[from] = to;
}

void FakeHub::Delete(const std::string& repo) {
  absl::MutexLock lock(&mutex_);
  repos_.erase(repo);
}

void FakeHub::AddFault(HubFault fault) {
  absl::MutexLock lock(&mutex_);
  faults_.push_back(std::move(fault));
}

void FakeHub::ClearFaults() {
  absl::MutexLock lock(&mutex_);
  faults_.clear();
  ++clears_;
}

std::vector<HubRequest> FakeHub::requests() const {
  absl::MutexLock lock(&mutex_);
  return requests_;
}

int FakeHub::CountOf(const std::string& part, const std::string& method) const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(
      std::count_if(requests_.begin(), requests_.end(), [&](const HubRequest& request) {
        return absl::StrContains(request.target, part) &&
               (method.empty() || request.method == method);
      }));
}

HubFault FakeHub::TakeFault(const WireRequest& request, int* clears) {
  absl::MutexLock lock(&mutex_);
  *clears = clears_;
  for (HubFault& fault : faults_) {
    const bool applies = fault.times != 0 && absl::StrContains(request.target, fault.target_part) &&
                         (fault.method.empty() || fault.method == request.method);
    if (!applies) continue;
    if (fault.times > 0) --fault.times;
    return fault;
  }
  return HubFault();
}

bool FakeHub::Wait(WireServer::Connection& connection, absl::Duration duration, int clears) {
  const absl::Time end = absl::Now() + duration;
  for (absl::Time now = absl::Now(); now < end; now = absl::Now()) {
    if (!connection.Wait(std::min(kClearsPoll, end - now))) return false;
    absl::MutexLock lock(&mutex_);
    if (clears_ != clears) return false;
  }
  return true;
}

void FakeHub::Answer(const std::string& place, const WireRequest& request,
                     WireServer::Connection& connection) {
  {
    absl::MutexLock lock(&mutex_);
    requests_.push_back(
        {place, request.method, request.target, request.Header("authorization"), request.headers});
  }
  int clears = 0;
  const HubFault fault = TakeFault(request, &clears);
  if (fault.before) fault.before();
  if (fault.stall_head) {
    Wait(connection, absl::InfiniteDuration(), clears);
    return;
  }
  Reply reply = place == "hub" ? HubReply(request) : CdnReply(request);
  int64_t first = 0;
  int64_t last = 0;
  const auto size = static_cast<int64_t>(reply.body.size());
  if (reply.status == 200 && !fault.ignores_range &&
      ParseRange(request.Header("range"), size, &first, &last)) {
    const std::string if_match = request.Header("if-match");
    if (!if_match.empty() && if_match != reply.headers["ETag"]) {
      reply = {412, {}, ""};
    } else if (first >= size) {
      reply = {416, {{"Content-Range", absl::StrCat("bytes */", size)}}, ""};
    } else {
      reply.status = 206;
      reply.headers["Content-Range"] = absl::StrCat("bytes ", first, "-", last, "/", size);
      reply.body = reply.body.substr(first, last - first + 1);
    }
  }
  if (fault.status != 0) reply = {fault.status, {}, ""};
  reply.headers["Content-Length"] = absl::StrCat(reply.body.size());
  reply.headers["Connection"] = "close";
  if (fault.endless) reply.headers.erase("Content-Length");
  for (const auto& [name, value] : fault.headers) {
    if (value.empty()) {
      reply.headers.erase(name);
    } else {
      reply.headers[name] = value;
    }
  }
  const auto send = [&](std::string_view bytes, bool drip) {
    if (!drip) return connection.Send(bytes);
    return std::all_of(bytes.begin(), bytes.end(), [&](char byte) {
      return Wait(connection, fault.byte_delay, clears) && connection.Send({&byte, 1});
    });
  };
  if (!send(WireHead(reply.status, reply.headers), fault.head_drip)) return;
  if (request.method == "HEAD") return;
  if (fault.corrupt_at >= 0 && fault.corrupt_at < std::ssize(reply.body)) {
    reply.body[fault.corrupt_at] ^= 0x55;
  }
  reply.body.append(fault.surplus, 'x');
  if (fault.cut_at >= 0) reply.body.resize(std::min<size_t>(fault.cut_at, reply.body.size()));
  const bool stalls = fault.stall_at >= 0;
  if (stalls) reply.body.resize(std::min<size_t>(fault.stall_at, reply.body.size()));
  if (!send(reply.body, fault.byte_delay > absl::ZeroDuration())) return;
  if (stalls) Wait(connection, absl::InfiniteDuration(), clears);
  const std::string more(kEndlessChunkBytes, 'x');
  while (fault.endless && connection.Send(more)) {
  }
}

FakeHub::Reply FakeHub::Refusal(int status, const std::string& code, const std::string& message) {
  Reply reply{status, {}, "refused"};
  if (!code.empty()) reply.headers["X-Error-Code"] = code;
  if (!message.empty()) reply.headers["X-Error-Message"] = message;
  return reply;
}

FakeHub::Reply FakeHub::HubReply(const WireRequest& request) {
  absl::MutexLock lock(&mutex_);
  const std::vector<std::string> url = absl::StrSplit(request.target, '?');
  std::vector<std::string> parts = absl::StrSplit(url[0].substr(1), '/');
  for (std::string& part : parts) part = absl::StrReplaceAll(part, {{"%2F", "/"}, {"%40", "@"}});
  if (parts.size() > 2 && parts[0] == "api" && parts[1] == "models") return Api(parts, request);
  // owner/name/resolve/revision/path...
  const auto resolve = std::find(parts.begin(), parts.end(), "resolve");
  if (parts.end() - resolve < 3) return Refusal(404, "", "Not Found");
  const std::string repo = absl::StrJoin(parts.begin(), resolve, "/");
  const std::string path = absl::StrJoin(resolve + 2, parts.end(), "/");
  if (const auto to = renamed_.find(repo); to != renamed_.end()) {
    const std::string rest = absl::StrJoin(resolve, parts.end(), "/");
    return {307, {{"Location", absl::StrCat("/", to->second, "/", rest)}}, ""};
  }
  return Resolve(repo, resolve[1], path, request);
}

bool FakeHub::Refused(const std::string& repo, const WireRequest& request, Reply* reply) {
  const auto found = repos_.find(repo);
  const std::string given = request.Header("authorization");
  const bool known_token =
      given.empty() || std::any_of(repos_.begin(), repos_.end(), [&](const auto& entry) {
        return given == absl::StrCat("Bearer ", entry.second.token);
      });
  const bool has_token =
      found != repos_.end() && given == absl::StrCat("Bearer ", found->second.token);
  if (!known_token) {
    *reply = Refusal(401, "", "Invalid credentials in Authorization header");
  } else if (found == repos_.end() || (found->second.access == HubAccess::kPrivate && !has_token)) {
    *reply = given.empty() ? Refusal(401, "", "Invalid username or password.")
                           : Refusal(404, "RepoNotFound", "Repository not found");
  } else if (found->second.access == HubAccess::kGated && !has_token) {
    *reply = Refusal(given.empty() ? 401 : 403, "GatedRepo", "Access to this model is restricted.");
  } else if (found->second.access == HubAccess::kDisabled) {
    *reply = Refusal(403, "", "Access to this resource is disabled.");
  } else {
    return false;
  }
  return true;
}

FakeHub::Reply FakeHub::Resolve(const std::string& repo_name, const std::string& revision,
                                const std::string& path, const WireRequest& request) {
  Reply reply;
  if (Refused(repo_name, request, &reply)) return reply;
  const Repo& repo = repos_[repo_name];
  const auto name = repo.revisions.find(revision);
  const std::string commit = name == repo.revisions.end() ? revision : name->second;
  const auto files = repo.commits.find(commit);
  if (files == repo.commits.end()) return Refusal(404, "RevisionNotFound", "Invalid rev id");
  const auto file = files->second.find(path);
  reply.headers["X-Repo-Commit"] = commit;
  if (file == files->second.end()) {
    reply = Refusal(404, "EntryNotFound", "Entry not found");
    reply.headers["X-Repo-Commit"] = commit;
    return reply;
  }
  if (!IsLarge(path)) {
    reply.headers["ETag"] = absl::StrCat("\"", GitHash(file->second), "\"");
    reply.body = file->second;
    return reply;
  }
  const std::string sha256 = Sha256Of(file->second);
  reply.status = 302;
  reply.headers["X-Linked-Etag"] = absl::StrCat("\"", sha256, "\"");
  reply.headers["X-Linked-Size"] = absl::StrCat(file->second.size());
  reply.headers["Location"] =
      absl::StrCat(secure_ ? "https://" : "http://", cdn_->place(), "/blobs/", sha256, "?signed=1");
  return reply;
}

// api/models/owner/name[/revision/REV | /tree/REV]
FakeHub::Reply FakeHub::Api(const std::vector<std::string>& parts, const WireRequest& request) {
  auto verb = std::find_if(parts.begin() + 2, parts.end(), [](const std::string& part) {
    return part == "revision" || part == "tree";
  });
  const std::string repo_name = absl::StrJoin(parts.begin() + 2, verb, "/");
  Reply reply;
  if (Refused(repo_name, request, &reply)) return reply;
  const Repo& repo = repos_[repo_name];
  const std::string revision = parts.end() - verb >= 2 ? verb[1] : "main";
  const auto name = repo.revisions.find(revision);
  const std::string commit = name == repo.revisions.end() ? revision : name->second;
  const auto files = repo.commits.find(commit);
  if (files == repo.commits.end()) return Refusal(404, "RevisionNotFound", "Invalid rev id");
  Json siblings = Json::array();
  Json tree = Json::array();
  for (const auto& [path, content] : files->second) {
    siblings.push_back({{"rfilename", path}});
    Json entry = {
        {"type", "file"}, {"path", path}, {"size", content.size()}, {"oid", GitHash(content)}};
    if (IsLarge(path)) {
      entry["lfs"] = {{"oid", Sha256Of(content)}, {"size", content.size()}, {"pointerSize", 134}};
    }
    tree.push_back(std::move(entry));
  }
  const bool is_tree = verb != parts.end() && *verb == "tree";
  const Json model = {
      {"_id", "1"},       {"id", repo_name}, {"modelId", repo_name},  {"sha", commit},
      {"private", false}, {"gated", false},  {"tags", Json::array()}, {"siblings", siblings}};
  reply.headers["Content-Type"] = "application/json";
  reply.body = is_tree ? tree.dump() : model.dump();
  return reply;
}

FakeHub::Reply FakeHub::CdnReply(const WireRequest& request) {
  absl::MutexLock lock(&mutex_);
  const std::vector<std::string> url = absl::StrSplit(request.target, '?');
  const std::string name = url[0].substr(url[0].rfind('/') + 1);
  const auto blob = blobs_.find(name);
  if (blob == blobs_.end()) return {404, {}, ""};
  // Like the real one, it has its own entity tag.
  return {200, {{"ETag", absl::StrCat("\"cdn-", name.substr(0, 8), "\"")}}, blob->second};
}

}  // namespace lorica
