// What a look at a remote adapter asks for: counted, at a hub, a bucket and a web server.
#include "adapters/adapter_head.h"

#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "adapters/peft_loader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_hub.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kConfig[] = "adapter_config.json";
constexpr char kWeights[] = "adapter_model.safetensors";
constexpr int64_t kFirstPartBytes = 64 << 10;
constexpr int64_t kBlockBytes = 128 << 10;
constexpr int64_t kLengthBytes = 8;

// Far larger than what is read of it.
MadeAdapter LargeAdapter() {
  MadeAdapter adapter;
  adapter.config["r"] = "16";
  adapter.AddPair(0, LoraModule::kDown, 16);
  adapter.AddPair(1, LoraModule::kQ, 16);
  return adapter;
}

// The same with a header so long.
std::string WithHeader(const std::string& weights, int64_t header_bytes) {
  uint64_t length = 0;
  std::memcpy(&length, weights.data(), kLengthBytes);
  std::string header = weights.substr(kLengthBytes, length);
  header.append(header_bytes - std::ssize(header), ' ');
  return SafetensorsFile(header, weights.substr(kLengthBytes + length));
}

enum class Place { kHub, kBucket, kMirror };

// One adapter, at one of the three places.
class AdapterHeadTest : public ::testing::TestWithParam<Place> {
 protected:
  AdapterHeadTest()
      : files_server_([this](const WireRequest& request, WireServer::Connection& out) {
          Answer(request, out);
        }) {
    retry_.pause_min = retry_.pause_max = absl::Milliseconds(1);
  }
  void Serve(const std::string& config, std::string weights) {
    hub_.Commit("org/a", {{kConfig, config}, {kWeights, weights}});
    config_ = config;
    weights_ = std::move(weights);
  }
  // A part from `range` on, or all of it. It may be cut off once.
  void Answer(const WireRequest& request, WireServer::Connection& out) {
    absl::MutexLock lock(&mutex_);
    if (absl::EndsWith(request.target, kWeights) && request.method == "GET") Note(request.headers);
    std::string body = absl::EndsWith(request.target, kConfig) ? config_ : weights_;
    std::map<std::string, std::string> headers = {{"ETag", "\"tag\""}};
    int status = 200;
    int64_t first = 0;
    int64_t last = 0;
    if (!ignores_ranges_ && ParseRange(request.Header("range"), &first, &last)) {
      last = std::min<int64_t>(last, std::ssize(body) - 1);
      headers["Content-Range"] = absl::StrCat("bytes ", first, "-", last, "/", body.size());
      body = body.substr(first, last - first + 1);
      status = 206;
    }
    headers["Content-Length"] = absl::StrCat(body.size());
    out.Send(WireHead(status, headers));
    if (request.method == "HEAD") return;
    out.Send(body.substr(
        0, status == 206 ? std::exchange(cut_at_, std::string::npos) : std::string::npos));
  }
  static bool ParseRange(absl::string_view text, int64_t* first, int64_t* last) {
    const std::vector<std::string> ends = absl::StrSplit(absl::StripPrefix(text, "bytes="), '-');
    return ends.size() == 2 && absl::SimpleAtoi(ends[0], first) && absl::SimpleAtoi(ends[1], last);
  }
  void Note(const std::map<std::string, std::string>& headers) {
    const auto range = headers.find("range");
    ranges_.push_back(range == headers.end() ? "all" : range->second);
  }
  // Of the weight file, in order.
  std::vector<std::string> Ranges() {
    absl::MutexLock lock(&mutex_);
    if (GetParam() == Place::kHub) {
      ranges_.clear();
      for (const HubRequest& request : hub_.requests()) {
        if (absl::StrContains(request.target, "/blobs/")) Note(request.headers);
      }
    }
    return ranges_;
  }
  int64_t BytesAskedFor() {
    const std::vector<std::string> ranges = Ranges();
    return std::accumulate(ranges.begin(), ranges.end(), int64_t{0},
                           [this](int64_t sum, const std::string& range) {
                             int64_t first = 0;
                             int64_t last = 0;
                             const bool part = ParseRange(range, &first, &last);
                             return sum + (part ? last - first + 1 : std::ssize(weights_));
                           });
  }
  std::unique_ptr<RemoteSession> Begin() {
    const std::string server = absl::StrCat("http://", files_server_.place());
    const ObjectOptions object{{}, retry_};
    switch (GetParam()) {
      case Place::kHub: {
        HubOptions options;
        options.endpoint = hub_.endpoint();
        options.redirect_hosts = {hub_.cdn_place()};
        options.retry = retry_;
        source_ = *MakeHubSource(options);
        return *source_->Begin("org/a", "main", "");
      }
      case Place::kBucket: {
        S3Options options;
        options.endpoint = server;
        options.object = object;
        source_ = *MakeS3Source(options);
        return *source_->Begin("s3://bucket/a", "", "");
      }
      case Place::kMirror:
        break;
    }
    source_ = MakeMirrorSource(object);
    return *source_->Begin(server + "/a", "", "");
  }
  absl::StatusOr<AdapterPlan> Plan() {
    const auto session = Begin();
    const auto config = session->Look(kConfig);
    const auto weights = session->Look(kWeights);
    if (!config.ok()) return config.status();
    if (!weights.ok()) return weights.status();
    const auto head = FetchAdapterHead(*session, **config, **weights, "there");
    if (!head.ok()) return head.status();
    return loader_.Plan(*(*head)->source, (*head)->location);
  }
  // What the loader says of the same files in a folder.
  absl::StatusOr<AdapterPlan> LocalPlan() {
    TemporaryFolder folder;
    folder.Write(absl::StrCat("a/", kConfig), config_);
    folder.Write(absl::StrCat("a/", kWeights), weights_);
    return loader_.Plan(**MakeLocalSource(folder.path()), "a");
  }

  absl::Mutex mutex_;
  std::string config_;
  std::string weights_;
  std::vector<std::string> ranges_;
  bool ignores_ranges_ = false;
  size_t cut_at_ = std::string::npos;
  RetryPauses retry_;
  LittleModel model_;
  FakeBackend backend_;
  PeftLoader loader_{model_.targets(), &backend_, kBlockBytes};
  FakeHub hub_;
  WireServer files_server_;
  std::unique_ptr<RemoteSource> source_;
};

TEST_P(AdapterHeadTest, AsksForTheFirstPartAloneAndPlansAsTheFolderWould) {
  const MadeAdapter adapter = LargeAdapter();
  Serve(adapter.ConfigText(), adapter.WeightsText());
  ASSERT_GT(std::ssize(weights_), 4 * kFirstPartBytes);
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto local = LocalPlan();
  EXPECT_EQ(plan->file_bytes, local->file_bytes);
  EXPECT_EQ(plan->rank_max, 16);
  EXPECT_EQ(plan->modules.size(), local->modules.size());
  EXPECT_EQ(plan->exact_tile_bytes, local->exact_tile_bytes);
  EXPECT_EQ(plan->block_count, local->block_count);
  EXPECT_THAT(Ranges(), ElementsAre("bytes=0-65535"));
}

TEST_P(AdapterHeadTest, ALongHeaderIsAskedForToItsEnd) {
  const MadeAdapter adapter = LargeAdapter();
  for (int64_t end : {kFirstPartBytes, kFirstPartBytes + 1, 3 * kFirstPartBytes}) {
    Serve(adapter.ConfigText(), WithHeader(adapter.WeightsText(), end - kLengthBytes));
    const size_t before = Ranges().size();
    const int64_t bytes_before = BytesAskedFor();
    const auto plan = Plan();
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->modules.size(), 2u);
    EXPECT_EQ(BytesAskedFor() - bytes_before, end);
    EXPECT_EQ(Ranges().size() - before, end == kFirstPartBytes ? 1u : 2u);
  }
}

TEST_P(AdapterHeadTest, AFileNoLongerThanThatComesWhole) {
  const MadeAdapter adapter = SmallestAdapter();
  Serve(adapter.ConfigText(), adapter.WeightsText());
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(BytesAskedFor(), std::ssize(weights_));
}

TEST_P(AdapterHeadTest, WhatIsNoHeaderIsSaidAsOfAFolder) {
  const std::string config = SmallestAdapter().ConfigText();
  for (const std::string& weights :
       {std::string(), std::string("short"), std::string(5 * kFirstPartBytes, 'x'),
        SafetensorsFile("{", std::string(5 * kFirstPartBytes, 'x'), 2),
        SafetensorsFile("{}", std::string(5 * kFirstPartBytes, 'x'), 17 << 20)}) {
    Serve(config, weights);
    const absl::Status status = Plan().status();
    EXPECT_EQ(status, LocalPlan().status()) << weights.substr(0, 20);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  }
}

TEST_P(AdapterHeadTest, AConfigurationThatIsRefusedCostsNoWeights) {
  Serve(R"({"peft_type": "IA3"})", LargeAdapter().WeightsText());
  const absl::Status status = Plan().status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("IA3"));
  EXPECT_THAT(Ranges(), ElementsAre());
}

TEST_P(AdapterHeadTest, APartThatIsCutOffGoesOnWhereItWas) {
  const MadeAdapter adapter = LargeAdapter();
  Serve(adapter.ConfigText(), WithHeader(adapter.WeightsText(), 2 * kFirstPartBytes));
  hub_.AddFault({.target_part = "/blobs/", .method = "GET", .cut_at = 40'000});
  cut_at_ = 40'000;
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(Ranges(), ElementsAre("bytes=0-65535", "bytes=40000-65535", "bytes=65536-131079"));
}

TEST_P(AdapterHeadTest, AServerWithoutRangesIsLeftOnceThereIsEnough) {
  const MadeAdapter adapter = LargeAdapter();
  Serve(adapter.ConfigText(), WithHeader(adapter.WeightsText(), 2 * kFirstPartBytes));
  ignores_ranges_ = true;
  // Whoever waits for the rest waits for ever.
  hub_.AddFault({.target_part = "/blobs/",
                 .method = "GET",
                 .times = -1,
                 .stall_at = 2 * kFirstPartBytes + kLengthBytes,
                 .ignores_range = true});
  const auto plan = Plan();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->modules.size(), 2u);
  EXPECT_THAT(Ranges(), ElementsAre("bytes=0-65535", "bytes=65536-131079"));
}

std::string NameOf(const ::testing::TestParamInfo<Place>& info) {
  switch (info.param) {
    case Place::kHub:
      return "Hub";
    case Place::kBucket:
      return "Bucket";
    case Place::kMirror:
      break;
  }
  return "Mirror";
}

INSTANTIATE_TEST_SUITE_P(Places, AdapterHeadTest,
                         ::testing::Values(Place::kHub, Place::kBucket, Place::kMirror), NameOf);

}  // namespace
}  // namespace lorica
