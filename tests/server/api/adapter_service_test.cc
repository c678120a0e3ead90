#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/adapter_info.h"
#include "server/api/adapter_service.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class AdapterServiceTest : public ::testing::Test {
 protected:
  template <typename Request, typename Response>
  using Method = grpc::Status (v1::AdapterService::Stub::*)(grpc::ClientContext*, const Request&,
                                                            Response*);

  template <typename Request, typename Response>
  grpc::Status Call(Method<Request, Response> method, const Request& request, Response* response) {
    Context context;
    return (server_.admin().*method)(&context, request, response);
  }
  grpc::Status Load(const std::string& id, v1::Tier tier = v1::TIER_DEVICE) {
    v1::LoadAdapterRequest request;
    request.set_adapter_id(id);
    request.set_tier(tier);
    v1::LoadAdapterResponse response;
    const grpc::Status status = Call(&v1::AdapterService::Stub::LoadAdapter, request, &response);
    adapter_ = response.adapter();
    return status;
  }
  grpc::Status Evict(const std::string& id, v1::Tier down_to = v1::TIER_SOURCE, bool wait = false) {
    v1::EvictAdapterRequest request;
    request.set_adapter_id(id);
    request.set_down_to(down_to);
    request.set_wait(wait);
    v1::EvictAdapterResponse response;
    const grpc::Status status = Call(&v1::AdapterService::Stub::EvictAdapter, request, &response);
    adapter_ = response.adapter();
    return status;
  }
  v1::ListAdaptersResponse List(int page_size, const std::string& token = "",
                                const std::string& prefix = "") {
    v1::ListAdaptersRequest request;
    request.set_page_size(page_size);
    request.set_page_token(token);
    request.set_prefix(prefix);
    v1::ListAdaptersResponse response;
    EXPECT_TRUE(Call(&v1::AdapterService::Stub::ListAdapters, request, &response).ok());
    return response;
  }

  TinyServer server_;
  v1::Adapter adapter_;  // of the last answer
};

std::vector<std::string> Ids(const v1::ListAdaptersResponse& response) {
  std::vector<std::string> ids;
  for (const v1::Adapter& adapter : response.adapters()) ids.push_back(adapter.adapter_id());
  return ids;
}

TEST_F(AdapterServiceTest, ListsInPages) {
  EXPECT_THAT(Ids(List(0)), ElementsAre("broken", "dora", "other", "plain"));
  const auto first = List(3);
  EXPECT_THAT(Ids(first), ElementsAre("broken", "dora", "other"));
  const auto second = List(3, first.next_page_token());
  EXPECT_THAT(Ids(second), ElementsAre("plain"));
  EXPECT_EQ(second.next_page_token(), "");
  EXPECT_THAT(Ids(List(0, "", "pl")), ElementsAre("plain"));
  v1::ListAdaptersRequest request;
  v1::ListAdaptersResponse response;
  for (const int wrong : {-1, kListPageMax + 1}) {
    request.set_page_size(wrong);
    EXPECT_EQ(Call(&v1::AdapterService::Stub::ListAdapters, request, &response).error_code(),
              StatusCode::INVALID_ARGUMENT);
  }
}

TEST_F(AdapterServiceTest, LoadsAndEvictsBetweenTiers) {
  ASSERT_TRUE(Load("plain", v1::TIER_HOST).ok());
  EXPECT_EQ(adapter_.tier(), v1::TIER_HOST);
  ASSERT_TRUE(Load("plain").ok());
  EXPECT_EQ(adapter_.tier(), v1::TIER_DEVICE);
  EXPECT_GT(adapter_.device_bytes(), 0);
  EXPECT_EQ(adapter_.rank_max(), 4);
  ASSERT_TRUE(Evict("plain", v1::TIER_HOST).ok());
  EXPECT_EQ(adapter_.tier(), v1::TIER_HOST);
  ASSERT_TRUE(Evict("plain").ok());
  EXPECT_EQ(adapter_.tier(), v1::TIER_SOURCE);
  EXPECT_TRUE(Evict("other").ok()) << "what is nowhere is evicted already";
}

TEST_F(AdapterServiceTest, TiersThatMakeNoSenseAreRefused) {
  EXPECT_EQ(Load("plain", v1::TIER_SOURCE).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Load("plain", static_cast<v1::Tier>(77)).error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Evict("plain", v1::TIER_DEVICE).error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(AdapterServiceTest, ErrorsSayWhatIsWrong) {
  EXPECT_EQ(Load("nobody").error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(Load("broken").error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(Load("").error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Load("../plain").error_code(), StatusCode::INVALID_ARGUMENT);
}

TEST_F(AdapterServiceTest, EvictionWaitsForStreamsWhenAsked) {
  grpc::ClientContext context;
  v1::GenerateRequest request = TokensRequest(500);
  request.set_adapter_id("plain");
  request.set_logprobs(20);
  auto reader = server_.inference().GenerateStream(&context, request);
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(Evict("plain").error_code(), StatusCode::FAILED_PRECONDITION);
  std::thread evict([&] {
    EXPECT_TRUE(Evict("plain", v1::TIER_SOURCE, /*wait=*/true).ok());
    EXPECT_EQ(server_.Status().running(), 0) << "it waits for the last token";
  });
  int tokens = 0;
  do {
    tokens = chunk.token_count();
  } while (reader->Read(&chunk));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(tokens, 500);
  evict.join();
}

TEST_F(AdapterServiceTest, CheckExplainsWithoutChangingAnything) {
  v1::CheckAdapterRequest request;
  v1::CheckAdapterResponse response;
  request.set_source("dora");
  ASSERT_TRUE(Call(&v1::AdapterService::Stub::CheckAdapter, request, &response).ok());
  EXPECT_TRUE(response.servable());
  ASSERT_EQ(response.modules_size(), 1);
  EXPECT_EQ(response.modules(0).name(), "self_attn.q_proj");
  EXPECT_EQ(response.modules(0).rank_max(), 4);
  EXPECT_EQ(response.modules(0).scale_max(), 2.0);
  EXPECT_TRUE(response.adapter().dora());
  EXPECT_GT(response.exact_tile_bytes(), 0);
  EXPECT_EQ(response.block_bytes(), server_.Status().limits().block_bytes());
  request.set_source("broken");
  ASSERT_TRUE(Call(&v1::AdapterService::Stub::CheckAdapter, request, &response).ok());
  EXPECT_FALSE(response.servable());
  EXPECT_NE(response.reason(), "");
  EXPECT_EQ(response.reason().find(server_.adapters().path()), std::string::npos);
  for (const auto& [source, code] : {std::pair("nobody", StatusCode::NOT_FOUND),
                                     std::pair("../dora", StatusCode::INVALID_ARGUMENT)}) {
    request.set_source(source);
    EXPECT_EQ(Call(&v1::AdapterService::Stub::CheckAdapter, request, &response).error_code(), code);
  }
}

TEST_F(AdapterServiceTest, RegistersNamesAndDeletesThem) {
  v1::RegisterAdapterRequest request;
  v1::RegisterAdapterResponse response;
  const auto call = [&] {
    return Call(&v1::AdapterService::Stub::RegisterAdapter, request, &response).error_code();
  };
  request.set_adapter_id("team/alias");
  request.set_source("plain");
  EXPECT_EQ(call(), StatusCode::OK);
  EXPECT_TRUE(response.created());
  EXPECT_EQ(response.adapter().source(), "plain");
  const std::string generation = response.adapter().generation();
  EXPECT_EQ(generation.size(), 64u);
  request.set_source("other");
  EXPECT_EQ(call(), StatusCode::ALREADY_EXISTS);
  request.set_expected_generation(std::string(64, '0'));
  EXPECT_EQ(call(), StatusCode::ABORTED);
  request.set_expected_generation("zzzzzzzz");
  EXPECT_EQ(call(), StatusCode::INVALID_ARGUMENT) << "no name could be there";
  request.set_expected_generation(generation);
  EXPECT_EQ(call(), StatusCode::OK);
  request.set_source("/etc");
  EXPECT_EQ(call(), StatusCode::INVALID_ARGUMENT);
  request.set_adapter_id("Team/alias");
  request.set_source("plain");
  EXPECT_EQ(call(), StatusCode::ALREADY_EXISTS) << "ids that differ only by case";

  v1::DeleteAdapterRequest gone;
  v1::DeleteAdapterResponse nothing;
  gone.set_adapter_id("team/alias");
  EXPECT_TRUE(Call(&v1::AdapterService::Stub::DeleteAdapter, gone, &nothing).ok());
  EXPECT_EQ(Call(&v1::AdapterService::Stub::DeleteAdapter, gone, &nothing).error_code(),
            StatusCode::NOT_FOUND);
}

TEST_F(AdapterServiceTest, PinnedStaysUntilUnpinned) {
  v1::PinAdapterRequest pin;
  v1::PinAdapterResponse pinned;
  pin.set_adapter_id("plain");
  ASSERT_TRUE(Call(&v1::AdapterService::Stub::PinAdapter, pin, &pinned).ok());
  EXPECT_EQ(pinned.adapter().pinned(), v1::TIER_DEVICE);
  EXPECT_EQ(Evict("plain").error_code(), StatusCode::FAILED_PRECONDITION);
  v1::UnpinAdapterRequest unpin;
  v1::UnpinAdapterResponse unpinned;
  unpin.set_adapter_id("plain");
  ASSERT_TRUE(Call(&v1::AdapterService::Stub::UnpinAdapter, unpin, &unpinned).ok());
  EXPECT_EQ(unpinned.adapter().pinned(), v1::TIER_UNSPECIFIED);
  EXPECT_TRUE(Evict("plain").ok());
}

TEST(PinsWarning, BeginsBeyondHalfOfATier) {
  TierStats stats;
  EXPECT_EQ(PinsWarning(stats, "host"), "") << "a tier of nothing";
  stats.byte_limit = 1000;
  stats.pinned_bytes = 500;
  EXPECT_EQ(PinsWarning(stats, "device"), "");
  stats.pinned_bytes = 501;
  EXPECT_THAT(PinsWarning(stats, "device"), HasSubstr("keep 501 of 1000 bytes of device memory"));
  EXPECT_THAT(PinsWarning(stats, "device"), HasSubstr("shares 499"));
}

TEST_F(AdapterServiceTest, WatchSendsASnapshotThenChanges) {
  grpc::ClientContext context;
  v1::WatchAdaptersRequest request;
  request.set_interval_ms(50);
  auto reader = server_.admin().WatchAdapters(&context, request);
  v1::WatchAdaptersResponse event;
  ASSERT_TRUE(reader->Read(&event));
  EXPECT_EQ(event.adapters_size(), 4);
  ASSERT_TRUE(Load("plain").ok());
  bool on_device = false;
  while (!on_device && reader->Read(&event)) {
    for (const v1::Adapter& adapter : event.adapters()) {
      EXPECT_EQ(adapter.adapter_id(), "plain") << "nothing else changed";
      on_device |= adapter.tier() == v1::TIER_DEVICE;
    }
  }
  EXPECT_TRUE(on_device);
  std::filesystem::remove_all(server_.adapters().path() + "/other");
  do {
    ASSERT_TRUE(reader->Read(&event));
  } while (event.removed_ids_size() == 0);
  EXPECT_THAT(event.removed_ids(), ElementsAre("other"));
  context.TryCancel();
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), StatusCode::CANCELLED);
}

TEST_F(AdapterServiceTest, AWatchEndsWhereThereAreTooManyAdapters) {
  server_.LinkAdapters("x", kWatchedAdaptersMax - 4);  // which are there
  Context context;
  v1::WatchAdaptersRequest request;
  request.set_interval_ms(50);
  auto reader = server_.admin().WatchAdapters(&context, request);
  v1::WatchAdaptersResponse event;
  for (int seen = 0; seen < kWatchedAdaptersMax; seen += event.adapters_size()) {
    ASSERT_TRUE(reader->Read(&event)) << seen;
  }
  server_.LinkAdapters("y", 1);
  EXPECT_FALSE(reader->Read(&event));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("more than 20000 adapters to watch"));
}

TEST_F(AdapterServiceTest, WatchesAreBoundedInNumberAndInterval) {
  v1::WatchAdaptersRequest request;
  v1::WatchAdaptersResponse event;
  for (const int interval_ms : {49, -1, 600'001}) {
    grpc::ClientContext context;
    request.set_interval_ms(interval_ms);
    auto reader = server_.admin().WatchAdapters(&context, request);
    EXPECT_FALSE(reader->Read(&event));
    EXPECT_EQ(reader->Finish().error_code(), StatusCode::INVALID_ARGUMENT) << interval_ms;
  }
  request.set_interval_ms(0);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::WatchAdaptersResponse>>> readers;
  for (int i = 0; i <= kWatchersMax; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(server_.admin().WatchAdapters(contexts.back().get(), request));
    if (i < kWatchersMax) {
      ASSERT_TRUE(readers.back()->Read(&event)) << i;
    }
  }
  EXPECT_FALSE(readers.back()->Read(&event));
  EXPECT_EQ(readers.back()->Finish().error_code(), StatusCode::RESOURCE_EXHAUSTED);
  readers.pop_back();
  for (auto& context : contexts) context->TryCancel();
  for (auto& reader : readers) reader->Finish();
}

v1::MergeAdaptersRequest MergeOf(const std::string& id, const std::string& one,
                                 const std::string& two, v1::MergeMethod method) {
  v1::MergeAdaptersRequest request;
  request.set_adapter_id(id);
  request.set_method(method);
  for (const auto& [part, weight] : {std::pair(one, 0.7), std::pair(two, 0.3)}) {
    v1::MergePart* added = request.add_parts();
    added->set_adapter_id(part);
    added->set_weight(weight);
  }
  return request;
}

TEST_F(AdapterServiceTest, AMergeByCatAnswersAsTheMixDoes) {
  v1::MergeAdaptersResponse merged;
  const grpc::Status status =
      Call(&v1::AdapterService::Stub::MergeAdapters,
           MergeOf("both", "plain", "other", v1::MERGE_METHOD_CAT), &merged);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(merged.created());
  EXPECT_EQ(merged.adapter().rank_max(), 12);
  EXPECT_EQ(merged.adapter().source(), "merge:cat plain=0.7 other=0.3");
  const auto generate = [&](v1::GenerateRequest request) {
    Context context;
    v1::GenerateResponse response;
    const grpc::Status s = server_.inference().Generate(&context, request, &response);
    EXPECT_TRUE(s.ok()) << s.error_message();
    return std::vector<int32_t>(response.token_ids().begin(), response.token_ids().end());
  };
  v1::GenerateRequest request = TokensRequest(24);
  const std::vector<int32_t> base = generate(request);
  request.set_adapter_id("both");
  const std::vector<int32_t> by_name = generate(request);
  request.clear_adapter_id();
  for (const auto& [id, weight] : {std::pair("plain", 0.7), std::pair("other", 0.3)}) {
    v1::AdapterWeight* term = request.add_adapters();
    term->set_adapter_id(id);
    term->set_weight(weight);
  }
  EXPECT_EQ(generate(request), by_name);
  EXPECT_NE(base, by_name);
}

TEST_F(AdapterServiceTest, MergesThatCannotBeMadeSayWhy) {
  v1::MergeAdaptersResponse response;
  const auto merge = [&](const v1::MergeAdaptersRequest& request) {
    return Call(&v1::AdapterService::Stub::MergeAdapters, request, &response);
  };
  const grpc::Status ranks = merge(MergeOf("both", "plain", "other", v1::MERGE_METHOD_LINEAR));
  EXPECT_EQ(ranks.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(ranks.error_message(), HasSubstr("linear needs equal ranks"));
  EXPECT_EQ(merge(MergeOf("both", "plain", "missing", v1::MERGE_METHOD_CAT)).error_code(),
            StatusCode::NOT_FOUND);
  v1::MergeAdaptersRequest wrong = MergeOf("both", "plain", "other", v1::MERGE_METHOD_TIES);
  EXPECT_EQ(merge(wrong).error_code(), StatusCode::INVALID_ARGUMENT) << "no density";
  wrong = MergeOf("both", "plain", "other", v1::MERGE_METHOD_UNSPECIFIED);
  EXPECT_EQ(merge(wrong).error_code(), StatusCode::INVALID_ARGUMENT);
  wrong = MergeOf("", "plain", "other", v1::MERGE_METHOD_CAT);
  EXPECT_EQ(merge(wrong).error_code(), StatusCode::INVALID_ARGUMENT);
  const grpc::Status no_part = merge(MergeOf("both", "plain", "", v1::MERGE_METHOD_CAT));
  EXPECT_EQ(no_part.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(no_part.error_message(), HasSubstr("parts[1].adapter_id is missing"));
}

}  // namespace
}  // namespace lorica
