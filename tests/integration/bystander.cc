#include "tests/integration/bystander.h"

#include <malloc.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/hub/steady_now.h"
#include "adapters/sha256.h"
#include "gmock/gmock.h"
#include "server/api/refusal_log.h"
#include "server/grammar/grammar_store.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

constexpr int kBystandersTokens = 24;
// Of lorica_held_entries, what goes with the requests that brought it.
constexpr const char* kOfRequests[] = {
    "answers",      "waiting_calls", "engine_requests", "queue_tenants",    "streams",
    "http_tenants", "looks",         "copies_arriving", "merges_under_way", "fetches"};
// What is there once for each content that somebody asked for.
constexpr const char* kOfContents[] = {"folders", "pool_contents", "noted_contents"};
constexpr absl::Duration kSettling = absl::Milliseconds(20);

// Refusals that never reach our code, and so no log of ours.
bool IsTheLibrarys(const grpc::Status& status) {
  const std::string& text = status.error_message();
  return status.error_code() == grpc::StatusCode::UNIMPLEMENTED || text == "Deadline Exceeded" ||
         absl::StrContains(text, "larger than max") || absl::StrContains(text, "metadata size");
}

}  // namespace

grpc::Status BystanderTest::Timed(const std::function<grpc::Status()>& call) const {
  const int64_t logged = RefusalsLogged();
  const absl::Time begun = SteadyNow();  // tests let the wall clock jump
  const grpc::Status status = call();
  const absl::Time ended = SteadyNow();
  EXPECT_LT(ended - begun, answer_max_) << status.error_message();
  if (!status.ok() && !IsTheLibrarys(status)) {
    // Of a message that cannot be read the line comes behind the answer.
    while (RefusalsLogged() == logged && SteadyNow() - ended < absl::Seconds(1)) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_GT(RefusalsLogged(), logged) << status.error_message();
  }
  EXPECT_LE(status.error_message().size(), 1024u);
  for (const char c : status.error_message()) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << int{c};
  return status;
}

int BystanderTest::CountOf(const std::string& folder) {
  int count = 0;
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(folder, error);
       entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    ++count;
  }
  return count;
}

int BystanderTest::Children() {
  int count = 0;
  std::error_code error;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::ifstream children(thread.path() / "children");
    count += static_cast<int>(std::distance(std::istream_iterator<int>(children), {}));
  }
  return count;
}

// gRPC's pools grow and shrink as they like, and have names; so have what keeps an idle connection
// over HTTP and what plays a hub. All others are called as the program is.
int BystanderTest::Threads() {
  const auto name_of = [](const std::filesystem::path& thread) {
    std::ifstream file(thread / "comm");
    std::string name;
    std::getline(file, name);
    return name;
  };
  const std::string own = name_of("/proc/self");
  int count = 0;
  std::error_code error;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", error)) {
    count += name_of(thread.path()) == own;
  }
  return count;
}

BystanderTest::Held BystanderTest::HeldNow() {
  const v1::GetStatusResponse status = server_->Status();
  const int children = Children();
  malloc_trim(0);
  return {CountOf("/proc/self/fd") - children,
          Threads(),
          children,
          status.free_blocks() + status.adapter_blocks() + status.prefix_blocks(),
          status.kv_blocks(),
          status.resident_bytes()};
}

std::map<std::string, int64_t> BystanderTest::EntriesNow() {
  const std::string page = HttpCall(server_->server().http_port(), "GET", "/metrics").body;
  std::map<std::string, int64_t> entries;
  for (absl::string_view line : absl::StrSplit(page, '\n')) {
    int64_t count = 0;
    if (!absl::ConsumePrefix(&line, "lorica_held_entries{of=\"")) continue;
    const std::pair<std::string, std::string> parts = absl::StrSplit(line, "\"} ");
    EXPECT_TRUE(absl::SimpleAtoi(parts.second, &count)) << line;
    entries[parts.first] = count;
  }
  EXPECT_FALSE(entries.empty()) << page;
  return entries;
}

// Beneath --data-dir: what a write or a copy that never ended would leave.
std::vector<std::string> BystanderTest::LeftOvers() const {
  std::vector<std::string> paths;
  std::error_code error;
  std::filesystem::recursive_directory_iterator entry(config_.data_dir, error);
  for (; entry != std::filesystem::recursive_directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (entry->path().parent_path() == config_.data_dir + "/fetched/tmp" ||
        absl::StartsWith(name, ".new-") || absl::EndsWith(name, ".new") ||
        absl::EndsWith(name, "-journal")) {
      paths.push_back(entry->path());
    }
  }
  return paths;
}

// Folders of adapters, and copies of them, that there are.
int64_t BystanderTest::Contents() const {
  int64_t count =
      CountOf(data_.path() + "/registered") + CountOf(data_.path() + "/fetched/content");
  std::error_code error;
  std::filesystem::recursive_directory_iterator entry(server_->adapters().path(), error);
  for (; entry != std::filesystem::recursive_directory_iterator(); entry.increment(error)) {
    count += entry->is_directory(error);
  }
  return count;
}

// In the file; without one all are the same.
int64_t BystanderTest::TenantsNow() const {
  if (config_.tenants_file.empty()) return 1;
  std::ifstream file(config_.tenants_file);
  const nlohmann::json tenants = nlohmann::json::parse(file, nullptr, false);
  EXPECT_FALSE(tenants.is_discarded());
  return tenants.is_discarded() ? 0 : static_cast<int64_t>(tenants["tenants"].size());
}

void BystanderTest::CheckEntries(absl::Time end) {
  std::map<std::string, int64_t> entries = EntriesNow();
  const auto are_gone = [&] {
    return absl::c_all_of(kOfRequests,
                          [&](const char* of) { return entries[of] == entries_before_[of]; });
  };
  while (!are_gone() && SteadyNow() < end) {
    absl::SleepFor(kSettling);
    entries = EntriesNow();
  }
  for (const char* of : kOfRequests) {
    EXPECT_TRUE(entries_before_.contains(of)) << of;
    EXPECT_EQ(entries[of], entries_before_[of]) << of;
  }
  // A tenant has at most one row for each generation that was on the device, and one for the base.
  const int64_t tenants = TenantsNow();
  std::map<std::string, int64_t> most = {
      {"tenants", tenants + 1},  // the server itself, which warms up
      {"lanes", tenants + 1},
      {"bill_rows", tenants * (1 + server_->Status().device_tier().insertions())},
      {"names", Contents() + Listed().adapters_size()}};
  for (const char* of : kOfContents) most[of] = Contents();
  for (const auto& [of, limit] : most) {
    EXPECT_TRUE(entries_before_.contains(of)) << of;
    EXPECT_LE(entries[of], limit) << of;
  }
}

bool BystanderTest::HoldsMore(const Held& held, const Held& before) const {
  return held.descriptors > before.descriptors || held.threads > before.threads ||
         held.resident_bytes > before.resident_bytes + kept_bytes_max_;
}

v1::ListAdaptersResponse BystanderTest::Listed() {
  Context context;
  v1::ListAdaptersRequest request;
  request.set_page_size(1000);
  v1::ListAdaptersResponse response;
  const grpc::Status status = server_->admin().ListAdapters(&context, request, &response);
  EXPECT_TRUE(status.ok() && response.next_page_token().empty()) << status.error_message();
  return response;
}

// One by one, which is refused where a request still uses one.
void BystanderTest::EvictAll() {
  const auto is_used = [](const v1::Adapter& adapter) { return adapter.lease_count() > 0; };
  v1::ListAdaptersResponse listed = Listed();
  // Counted anew at each of the engine's ticks.
  const absl::Time end = SteadyNow() + kAnswerMax;
  while (absl::c_any_of(listed.adapters(), is_used) && SteadyNow() < end) {
    absl::SleepFor(kSettling);
    listed = Listed();
  }
  for (const v1::Adapter& adapter : listed.adapters()) {
    SCOPED_TRACE(adapter.adapter_id());
    EXPECT_EQ(adapter.lease_count(), 0) << "requests that use it";
    if (adapter.tier() != v1::TIER_DEVICE && adapter.tier() != v1::TIER_HOST) continue;
    Context unpinning;
    v1::UnpinAdapterRequest unpin;
    unpin.set_adapter_id(adapter.adapter_id());
    v1::UnpinAdapterResponse unpinned;
    (void)server_->admin().UnpinAdapter(&unpinning, unpin, &unpinned);
    Context evicting;
    v1::EvictAdapterRequest evict;
    evict.set_adapter_id(adapter.adapter_id());
    v1::EvictAdapterResponse evicted;
    const grpc::Status status = server_->admin().EvictAdapter(&evicting, evict, &evicted);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  server_->WaitFor([this](const v1::GetStatusResponse& status) {
    bool as_expected =
        status.adapter_blocks() * status.limits().block_bytes() == status.device_tier().bytes();
    for (const v1::TierCounters& tier : {status.device_tier(), status.host_tier()}) {
      as_expected = as_expected && tier.adapters() == unnamed_ &&
                    tier.insertions() - tier.evictions() - tier.removals() == unnamed_ &&
                    (tier.bytes() == 0) == (unnamed_ == 0);
    }
    return as_expected;
  });
}

void BystanderTest::InTwoTenants() {
  const auto entry = [](const std::string& name, const std::string& role) {
    Sha256 hash;
    hash.Update(name);
    return absl::StrCat("{\"name\": \"", name, "\", \"role\": \"", role,
                        "\", \"adapters\": [\"*\"], \"keys\": [\"", hash.Finish(), "\"]}");
  };
  key_ = "mallory";
  bystanders_key_ = "victim";
  keys_.Write("tenants.json", absl::StrCat("{\"tenants\": [", entry(key_, "operator"), ", ",
                                           entry(bystanders_key_, "user"), "]}"));
  config_.tenants_file = keys_.path() + "/tenants.json";
}

void BystanderTest::Start() {
  // One arena, and large blocks by themselves: what is freed is given back, or found to be held.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  std::thread([] {}).join();  // beside the first one a sanitizer starts one of its own
  threads_alone_ = Threads();
  server_ = std::make_unique<TinyServer>(config_, key_);
  bystanders_stub_ = v1::InferenceService::NewStub(
      bystanders_key_.empty() ? server_->channel()
                              : ChannelWithKey(server_->server().port(), bystanders_key_));
  alone_ = TokensFrom(*bystanders_stub_, bystanders_adapter_);
  ASSERT_EQ(alone_.size(), kBystandersTokens);
  // A thread of gRPC's has the program's name at first.
  for (int threads = -1; std::exchange(threads, Threads()) != threads;) absl::SleepFor(kSettling);
  entries_before_ = EntriesNow();
  before_ = HeldNow();
  bystander_ = std::thread([this] { Watch(); });
}

void BystanderTest::Watch() {
  while (!stop_) {
    const absl::Time begun = SteadyNow();
    EXPECT_EQ(TokensFrom(*bystanders_stub_, bystanders_adapter_), alone_)
        << "another stream was touched";
    EXPECT_LT(SteadyNow() - begun, answer_max_) << "another stream was held up";
    ++answers_;
  }
}

void BystanderTest::TearDown() {
  if (server_ == nullptr) return;
  const int answered = answers_;
  const absl::Time end = SteadyNow() + kAnswerMax;
  while (answers_ < answered + 2 && SteadyNow() < end) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_GE(answers_, answered + 2) << "others wait after the test";
  stop_ = true;
  if (bystander_.joinable()) bystander_.join();
  server_->WaitFor([](const v1::GetStatusResponse& status) {
    return status.running() + status.queued() + status.waiting() + status.loading_adapters() == 0;
  });
  Held held = HeldNow();
  while (HoldsMore(held, before_) && SteadyNow() < end) {
    absl::SleepFor(kSettling);
    held = HeldNow();
  }
  EXPECT_LE(held.descriptors, before_.descriptors) << "beside one for each child";
  EXPECT_LE(held.children, kCompileThreads);
  EXPECT_LE(held.threads, before_.threads) << "beside gRPC's";
  EXPECT_EQ(held.kv_blocks, 0) << "blocks of requests";
  EXPECT_EQ(held.free_blocks, before_.free_blocks) << "blocks that nobody holds any more";
  EXPECT_LE(held.resident_bytes, before_.resident_bytes + kept_bytes_max_);
  CheckEntries(end);
  while (!LeftOvers().empty() && SteadyNow() < end) absl::SleepFor(kSettling);
  EXPECT_THAT(LeftOvers(), testing::IsEmpty());
  EvictAll();
  bystanders_stub_ = nullptr;
  server_ = nullptr;
  EXPECT_THAT(LeftOvers(), testing::IsEmpty()) << "by a server that is gone";
  EXPECT_EQ(Children(), 0);
  while (Threads() > threads_alone_ && SteadyNow() < end) absl::SleepFor(kSettling);
  EXPECT_LE(Threads(), threads_alone_) << "of a server that is gone";
}

grpc::Status BystanderTest::Generate(const v1::GenerateRequest& request, const Headers& headers,
                                     v1::GenerateResponse* response) {
  TinyServer& asked = server();
  return Timed([&] {
    Context context;
    for (const auto& [name, value] : headers) context.AddMetadata(name, value);
    v1::GenerateResponse ignored;
    return asked.inference().Generate(&context, request, response != nullptr ? response : &ignored);
  });
}

grpc::Status BystanderTest::GenerateAsBystander(const v1::GenerateRequest& request,
                                                v1::GenerateResponse* response) {
  (void)server();
  return Timed([&] {
    Context context;
    return bystanders_stub_->Generate(&context, request, response);
  });
}

grpc::Status BystanderTest::Register(const std::string& id, const std::string& source) {
  TinyServer& asked = server();
  Context context;
  v1::RegisterAdapterRequest request;
  request.set_adapter_id(id);
  request.set_source(source);
  v1::RegisterAdapterResponse response;
  return Timed([&] { return asked.admin().RegisterAdapter(&context, request, &response); });
}

grpc::Status BystanderTest::Raw(const std::string& method, const std::string& message) {
  TinyServer& asked = server();
  return Timed([&] { return RawCall(asked, "/lorica.v1." + method, message).status; });
}

grpc::StatusCode BystanderTest::CodeOf(const std::function<void(v1::GenerateRequest&)>& change) {
  v1::GenerateRequest request = TokensRequest(2);
  change(request);
  return Generate(request).error_code();
}

grpc::StatusCode BystanderTest::CodeOfAdapter(const std::string& id) {
  return CodeOf([&](v1::GenerateRequest& request) { request.set_adapter_id(id); });
}

std::vector<int32_t> BystanderTest::TokensOf(const std::string& adapter) {
  TinyServer& asked = server();
  const absl::Time begun = SteadyNow();
  std::vector<int32_t> tokens = TokensFrom(asked.inference(), adapter);
  EXPECT_LT(SteadyNow() - begun, answer_max_);
  return tokens;
}

std::vector<int32_t> BystanderTest::TokensFrom(v1::InferenceService::Stub& stub,
                                               const std::string& adapter) {
  v1::GenerateRequest request = TokensRequest(kBystandersTokens);
  request.set_adapter_id(adapter);
  Context context;
  v1::GenerateResponse response;
  const grpc::Status status = stub.Generate(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return {response.token_ids().begin(), response.token_ids().end()};
}

void BystanderTest::AskForMany(const std::string& stem, int count, int callers) {
  std::vector<std::thread> threads;
  std::atomic<int> next = 0;
  for (int caller = 0; caller < callers; ++caller) {
    threads.emplace_back([&] {
      for (int i = next++; i < count; i = next++) {
        const grpc::StatusCode code = CodeOfAdapter(absl::StrCat(stem, i));
        // Unavailable: too many are being looked for at a time.
        EXPECT_TRUE(code == grpc::StatusCode::NOT_FOUND || code == grpc::StatusCode::UNAVAILABLE)
            << code;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

int64_t BystanderTest::ResidentBytes() { return server().Status().resident_bytes(); }

int64_t BystanderTest::PeakGrowthBytes(const std::function<void()>& calls) {
  (void)server();
  const auto peak_bytes = [] {
    std::ifstream status("/proc/self/status");
    std::string word;
    int64_t kib = -1;
    while (status >> word && word != "VmHWM:") continue;
    EXPECT_TRUE(status >> kib);
    return kib << 10;
  };
  std::ofstream reset("/proc/self/clear_refs");
  EXPECT_TRUE(reset << "5" << std::flush) << "the peak begins at what is resident now";
  const int64_t before = peak_bytes();
  calls();
  return peak_bytes() - before;
}

}  // namespace lorica
