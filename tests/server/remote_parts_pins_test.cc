// A whole server and a hub: a pin is of a name. It goes where the name goes, and ends with it.
#include <atomic>
#include <filesystem>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "server/api/pin_book.h"
#include "tests/server/http/http_call.h"
#include "tests/server/remote_parts_fixture.h"

namespace lorica {
namespace {

const absl::Duration kFollowed = 5 * kPinLookInterval;

class RemotePartsPinsTest : public RemotePartsTest {
 protected:
  RemotePartsPinsTest() {
    config_.hub_refresh_seconds = 1;
    config_.http_address = "127.0.0.1:0";
    Restart();
  }
  grpc::Status Pin(const std::string& id, v1::Tier tier = v1::TIER_DEVICE) {
    v1::PinAdapterRequest request;
    request.set_adapter_id(id);
    request.set_tier(tier);
    Context context;
    v1::PinAdapterResponse response;
    return server_->admin().PinAdapter(&context, request, &response);
  }
  grpc::Status Unpin(const std::string& id) {
    v1::UnpinAdapterRequest request;
    request.set_adapter_id(id);
    Context context;
    v1::UnpinAdapterResponse response;
    return server_->admin().UnpinAdapter(&context, request, &response);
  }
  int64_t PinnedBytes() {
    const std::string series = "lorica_tier_pinned_bytes{tier=\"device\"} ";
    const std::string text = HttpCall(server_->server().http_port(), "GET", "/metrics").body;
    const size_t at = text.find(series);
    EXPECT_NE(at, std::string::npos) << text;
    return at == std::string::npos ? -1 : std::stoll(text.substr(at + series.size()));
  }
  // Until it is `wanted`, for a while.
  bool BecomesPinned(const std::string& id, const std::string& generation) {
    const absl::Time end = absl::Now() + kFollowed;
    while (absl::Now() < end) {
      const v1::Adapter adapter = Get(id);
      if (adapter.generation() == generation && adapter.pinned() == v1::TIER_DEVICE) return true;
      absl::SleepFor(absl::Milliseconds(20));
    }
    return false;
  }
  bool NothingIsPinned() {
    const absl::Time end = absl::Now() + kFollowed;
    while (PinnedBytes() > 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(20));
    return PinnedBytes() == 0;
  }
};

TEST_F(RemotePartsPinsTest, APinGoesWithItsNameToOtherContentAndBack) {
  ASSERT_TRUE(Register("app", "plain").ok());
  ASSERT_TRUE(Pin("app").ok());
  const int64_t plain_bytes = PinnedBytes();
  EXPECT_GT(plain_bytes, 0);
  const std::string other = Generate("other").generation;
  ASSERT_TRUE(Register("app", "other", true).ok());
  EXPECT_TRUE(BecomesPinned("app", other));
  EXPECT_EQ(Get("plain").pinned(), v1::TIER_UNSPECIFIED) << "nobody pinned that name";
  ASSERT_TRUE(Unpin("app").ok());
  EXPECT_TRUE(NothingIsPinned());
}

TEST_F(RemotePartsPinsTest, APinEndsWithItsName) {
  ASSERT_TRUE(Register("app", "plain").ok());
  ASSERT_TRUE(Pin("app").ok());
  ASSERT_TRUE(Delete("app").ok());
  EXPECT_TRUE(NothingIsPinned());
}

TEST_F(RemotePartsPinsTest, WhatAnotherNameHasPinnedStays) {
  ASSERT_TRUE(Register("one", "plain").ok());
  ASSERT_TRUE(Register("two", "plain").ok());
  const std::string generation = Get("one").generation();
  ASSERT_TRUE(Pin("one").ok());
  ASSERT_TRUE(Pin("two").ok());
  ASSERT_TRUE(Delete("one").ok());
  absl::SleepFor(3 * kPinLookInterval);
  EXPECT_TRUE(BecomesPinned("two", generation));
  ASSERT_TRUE(Delete("two").ok());
  EXPECT_TRUE(NothingIsPinned());
}

TEST_F(RemotePartsPinsTest, APinFollowsAFoldersFiles) {
  ASSERT_TRUE(Pin("plain").ok());
  const std::string before = Get("plain").generation();
  server_->WriteAdapter("plain", 6, false);
  ASSERT_TRUE(Generate("plain").status.ok());
  const std::string now = Get("plain").generation();
  ASSERT_NE(now, before);
  EXPECT_TRUE(BecomesPinned("plain", now));
  std::filesystem::remove_all(server_->adapters().path() + "/plain");
  EXPECT_TRUE(NothingIsPinned());
}

TEST_F(RemotePartsPinsTest, APinFollowsABranch) {
  ASSERT_TRUE(Pin("org/a").ok());
  const std::string other = Generate("other").generation;
  hub_.Commit("org/a", FakeHub::FilesOf(server_->adapters().path() + "/other"));
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (Generate("org/a").generation != other && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_TRUE(BecomesPinned("org/a", other));
  ASSERT_TRUE(Unpin("org/a").ok());
  EXPECT_TRUE(NothingIsPinned());
}

// What a name has pinned ends with it, in whatever order pins, their ends and moves crossed.
TEST_F(RemotePartsPinsTest, PinsAndTheirEndsCrossAndNothingStaysPinned) {
  ASSERT_TRUE(Register("app", "plain").ok());
  std::atomic<bool> stop = false;
  std::vector<std::thread> others;
  for (int i = 0; i < 4; ++i) {
    others.emplace_back([this, &stop, i] {
      while (!stop) i % 2 == 0 ? Pin("app") : Unpin("app");
    });
  }
  for (int round = 0; round < 20; ++round) {
    server_->WriteAdapter("next", 2 + round % 7, false);
    ASSERT_TRUE(Register("app", "next", true).ok());
    absl::SleepFor(absl::Milliseconds(50));
  }
  stop = true;
  for (std::thread& other : others) other.join();
  ASSERT_TRUE(Delete("app").ok());
  EXPECT_TRUE(NothingIsPinned()) << PinnedBytes();
}

// Also where somebody else has moved the name since.
TEST_F(RemotePartsPinsTest, AnAnswerIsAboutWhatTheCallDid) {
  const auto move = [this](const std::string& source, const std::string& generation) {
    for (int round = 0; round < 25; ++round) {
      v1::RegisterAdapterResponse response;
      const grpc::Status status = Register("app", source, true, &response);
      ASSERT_TRUE(status.ok()) << status.error_message();
      ASSERT_EQ(response.adapter().generation(), generation) << round;
    }
  };
  const std::string plain = Generate("plain").generation;
  const std::string other = Generate("other").generation;
  std::thread beside(move, "plain", plain);
  move("other", other);
  beside.join();
}

}  // namespace
}  // namespace lorica
