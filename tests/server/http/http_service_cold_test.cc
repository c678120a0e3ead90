// Both faces of a server whose adapters' folders hang: whoever needs none of them is answered.
#include <atomic>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "adapters/local_looks.h"
#include "gtest/gtest.h"
#include "server/api/grpc_service.h"
#include "server/http/http_service.h"
#include "tests/fakes/fake_device.h"
#include "tests/fakes/fake_loader.h"
#include "tests/fakes/held_source.h"
#include "tests/fakes/made_adapter.h"
#include "tests/server/api/fake_tokenizer.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr int32_t kBlocks = 64;
constexpr int kContext = 400;
constexpr absl::Duration kBound = absl::Seconds(5);  // of what waits for nobody

EngineOptions Options() {
  EngineOptions options;
  options.context_tokens = kContext;
  options.vocabulary = 259;
  return options;
}

// A whole server but for its model, over "warm" and over "cold0" to "cold15", which hang.
class ColdAdaptersTest : public ::testing::Test {
 protected:
  ColdAdaptersTest() {
    SmallestAdapter(1).WriteTo(folder_, "warm");
    for (int i = 0; i < 16; ++i) SmallestAdapter(i + 2).WriteTo(folder_, absl::StrCat("cold", i));
    catalog_.SetLooks(&looks_);
    GatewayLimits limits;
    limits.context_tokens = kContext;
    limits.vocabulary = tokenizer_.size();
    limits.end_tokens = {FakeTokenizer::kEnd};
    limits.base_name = "base";
    gateway_ = std::make_unique<Gateway>(limits, &engine_, &catalog_, &pool_, &tokenizer_, nullptr);
    grpc_ = *GrpcService::Start({.address = "127.0.0.1:0"}, {}, gateway_.get());
    HttpOptions http;
    http.address = "127.0.0.1:0";
    http.facts.model = "base";
    http.metrics = &metrics_;
    http_ = *HttpService::Start(std::move(http), gateway_.get());
    grpc_->SetState(ServingState::kServing);
    http_->SetServing(true);
    engine_thread_ = std::thread([this] {
      while (!stop_) {
        gateway_->Tick(SteadyNow());
        if (!engine_.Step(SteadyNow()).worked) engine_.WaitForWork(absl::Milliseconds(10));
      }
    });
    channel_ = ChannelWithKey(grpc_->port(), "");
  }
  ~ColdAdaptersTest() override {
    source_->LetGo();
    for (std::thread& caller : callers_) caller.join();
    http_->Stop(absl::ZeroDuration());
    grpc_->Stop(absl::ZeroDuration());
    gateway_->StartDrain();
    looks_.Stop();
    stop_ = true;
    engine_thread_.join();
  }

  grpc::Status Generate(const std::string& id) {
    Context context;
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id(id);
    v1::GenerateResponse response;
    return v1::InferenceService::NewStub(channel_)->Generate(&context, request, &response);
  }
  grpc::Status Register(const std::string& id, const std::string& source) {
    Context context;
    v1::RegisterAdapterRequest request;
    request.set_adapter_id(id);
    request.set_source(source);
    v1::RegisterAdapterResponse response;
    return admin()->RegisterAdapter(&context, request, &response);
  }
  grpc::Status Get(const std::string& id) {
    Context context;
    v1::GetAdapterRequest request;
    request.set_adapter_id(id);
    v1::GetAdapterResponse response;
    return admin()->GetAdapter(&context, request, &response);
  }
  grpc::Status List() {
    Context context;
    v1::ListAdaptersResponse response;
    return admin()->ListAdapters(&context, {}, &response);
  }
  int Complete(const std::string& model) {
    return Post(http_->port(), "/v1/completions",
                {{"model", model}, {"prompt", "hi"}, {"max_tokens", 1}})
        .status;
  }
  int Load(const std::string& name, const std::string& path) {
    return Post(http_->port(), "/v1/load_lora_adapter", {{"lora_name", name}, {"lora_path", path}})
        .status;
  }
  int ListModels() { return HttpCall(http_->port(), "GET", "/v1/models").status; }
  std::unique_ptr<v1::AdapterService::Stub> admin() {
    return v1::AdapterService::NewStub(channel_);
  }

  // On a thread of its own.
  void Begin(std::function<void()> call) {
    ++open_;
    callers_.emplace_back([this, call = std::move(call)] {
      call();
      --open_;
    });
  }
  // Of each kind enough to take every thread that may hash.
  void BeginWhatHangs() {
    for (int i = 0; i < 4; ++i) {
      Begin([=, this] { EXPECT_TRUE(Generate(absl::StrCat("cold", i)).ok()); });
    }
    for (int i = 4; i < 6; ++i) {
      Begin([=, this] {
        EXPECT_TRUE(Register(absl::StrCat("new", i), absl::StrCat("cold", i)).ok());
      });
    }
    Begin([this] { EXPECT_TRUE(Get("cold6").ok()); });
    for (int i = 7; i < 11; ++i) {
      Begin([=, this] { EXPECT_EQ(Complete(absl::StrCat("cold", i)), 200); });
    }
    for (int i = 11; i < 13; ++i) {
      Begin([=, this] { EXPECT_EQ(Load(absl::StrCat("new", i), absl::StrCat("cold", i)), 200); });
    }
    EXPECT_TRUE(source_->AwaitHeld(kLocalLookThreads + 2 * kAdapterWorkThreads));
  }

  TemporaryFolder folder_;
  LittleModel model_;
  FakeBackend weights_;
  std::shared_ptr<HeldSource> source_ =
      std::make_shared<HeldSource>(*MakeLocalSource(folder_.path()), "cold");
  PeftLoader loader_{model_.targets(), &weights_, 128 << 10};
  AdapterCatalog catalog_{source_, &loader_, "base"};
  const std::unique_ptr<LoaderExecutor> look_threads_ = MakeLoaderThreads(kLocalLookThreads);
  LocalLooks looks_{{}, look_threads_.get()};
  fakes::FakeMemory memory_{kBlocks};
  fakes::FakeBackend backend_{&memory_};
  fakes::FakeExecutor executor_{&memory_, 0, 259};
  BlockArena arena_{kBlocks};
  KvCache cache_{nullptr, fakes::kFakeBlockBytes, {}};
  fakes::FakeImageLoader images_;
  const std::unique_ptr<LoaderExecutor> loads_ = MakeLoaderThreads(1);
  AdapterPool pool_{{}, &images_, loads_.get(), &backend_, cache_, &arena_};
  Engine engine_{Options(), &executor_, &pool_, &arena_};
  FakeTokenizer tokenizer_;
  Metrics metrics_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<GrpcService> grpc_;
  std::unique_ptr<HttpService> http_;
  std::shared_ptr<grpc::Channel> channel_;
  std::atomic<bool> stop_ = false;
  std::thread engine_thread_;
  std::atomic<int> open_ = 0;
  std::vector<std::thread> callers_;
};

TEST_F(ColdAdaptersTest, WhoNeedsNoneOfThemIsAnsweredMeanwhile) {
  ASSERT_TRUE(Generate("warm").ok());
  BeginWhatHangs();
  const int open = open_;
  const absl::Time begin = SteadyNow();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Generate("warm").ok());
    EXPECT_TRUE(Generate("").ok());
    EXPECT_EQ(Complete("warm"), 200);
    EXPECT_EQ(Complete("base"), 200);
    EXPECT_TRUE(List().ok());
    EXPECT_EQ(ListModels(), 200);
    EXPECT_EQ(Generate("nobody").error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(Complete("nobody"), 404);
  }
  EXPECT_LT(SteadyNow() - begin, kBound);
  EXPECT_EQ(open_, open) << "nothing of what hangs has ended";
  source_->LetGo();  // and all that hung is answered
  for (std::thread& caller : std::exchange(callers_, {})) caller.join();
  EXPECT_TRUE(Generate("cold0").ok());
}

TEST_F(ColdAdaptersTest, ADrainEndsWhatWaitsForAFolderThatHangs) {
  for (int i = 0; i < 4; ++i) {
    Begin([=, this] {
      EXPECT_EQ(Generate(absl::StrCat("cold", i)).error_code(), grpc::StatusCode::UNAVAILABLE);
    });
  }
  Begin([this] { EXPECT_EQ(Complete("cold4"), 503); });
  ASSERT_TRUE(source_->AwaitHeld(kLocalLookThreads));
  const absl::Time end = SteadyNow() + kBound;
  while (gateway_->waiting_calls() < 5 && SteadyNow() < end) absl::SleepFor(absl::Milliseconds(1));
  gateway_->StartDrain();
  for (std::thread& caller : std::exchange(callers_, {})) caller.join();
  EXPECT_LT(SteadyNow(), end);
}

}  // namespace
}  // namespace lorica
