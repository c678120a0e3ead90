// Watches of health, for which nobody needs a key: who holds many keeps nobody else from his.
#include "server/api/health_service.h"

#include <algorithm>
#include <deque>
#include <memory>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using ::grpc::StatusCode;
using ::grpc::health::v1::Health;
using ::testing::HasSubstr;

class Watch {
 public:
  explicit Watch(Health::Stub& health) : reader_(health.Watch(&context_, {})) {
    open_ = reader_->Read(&event_);
  }
  Watch(const Watch&) = delete;
  ~Watch() { context_.TryCancel(); }
  bool open() const { return open_; }
  // Of one that is not open.
  grpc::Status Refusal() { return reader_->Finish(); }
  // Of one that ends.
  grpc::Status End() {
    while (reader_->Read(&event_)) {
    }
    return reader_->Finish();
  }

 private:
  Context context_;
  const std::unique_ptr<grpc::ClientReader<grpc::health::v1::HealthCheckResponse>> reader_;
  grpc::health::v1::HealthCheckResponse event_;
  bool open_ = false;
};

// A connection, and its watches.
struct Client {
  explicit Client(TinyServer& server)
      : health(Health::NewStub(ChannelWithKey(server.server().port(), ""))) {}
  // How many of `count` more were let in.
  int Open(int count) {
    const size_t before = watches.size();
    for (int i = 0; i < count; ++i) {
      watches.emplace_back(*health);
      if (!watches.back().open()) watches.pop_back();
    }
    return static_cast<int>(watches.size() - before);
  }

  std::unique_ptr<Health::Stub> health;
  std::deque<Watch> watches;
};

TEST(HealthService, AConnectionHasSoManyWatchesAndOthersHaveTheirs) {
  TinyServer server;
  Client many(server);
  EXPECT_EQ(many.Open(kHealthWatchesPerConnectionMax), kHealthWatchesPerConnectionMax);
  Watch beyond(*many.health);
  ASSERT_FALSE(beyond.open());
  const grpc::Status refused = beyond.Refusal();
  EXPECT_EQ(refused.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("this connection has 16 watches of health"));
  Context context;
  grpc::health::v1::HealthCheckResponse answer;
  EXPECT_TRUE(many.health->Check(&context, {}, &answer).ok()) << "that is none";
  EXPECT_EQ(Client(server).Open(1), 1);
  many.watches.pop_front();
  const absl::Time end = absl::Now() + absl::Seconds(10);
  int again = 0;
  while (again == 0 && absl::Now() < end) again = many.Open(1);  // until its end is noticed
  EXPECT_EQ(again, 1);
  EXPECT_EQ(many.Open(1), 0);
}

TEST(HealthService, AllConnectionsTogetherHaveSoManyWatches) {
  TinyServer server;
  std::deque<Client> clients;
  int open = 0;
  for (; open < kHealthWatchersMax; open += kHealthWatchesPerConnectionMax) {
    ASSERT_EQ(clients.emplace_back(server).Open(kHealthWatchesPerConnectionMax),
              kHealthWatchesPerConnectionMax);
  }
  EXPECT_EQ(open, kHealthWatchersMax);
  EXPECT_EQ(clients.back().Open(1), 0) << "it has its share";
}

// In the order in which they come: 256, then those of one more connection.
TEST(HealthService, WhereAllAreTakenTheNewestOfWhoHasTheMostGivesWay) {
  TinyServer server;
  std::deque<Client> clients;
  for (int i = 0; i < kHealthWatchersMax / kHealthWatchesPerConnectionMax - 1; ++i) {
    clients.emplace_back(server).Open(kHealthWatchesPerConnectionMax - 1);
  }
  Client& most = clients.emplace_back(server);
  most.Open(kHealthWatchesPerConnectionMax);
  int left = kHealthWatchersMax;
  for (const Client& client : clients) left -= static_cast<int>(client.watches.size());
  EXPECT_EQ(left, 15);
  while (left > 0) left -= clients.emplace_back(server).Open(std::min(left, 8));
  Client other(server);
  EXPECT_EQ(other.Open(1), 1) << "one beyond the limit";
  const grpc::Status gave_way = most.watches.back().End();
  EXPECT_EQ(gave_way.error_code(), StatusCode::UNAVAILABLE);
  EXPECT_THAT(gave_way.error_message(), HasSubstr("this connection had the most; keep fewer"));
  most.watches.pop_back();
  EXPECT_EQ(other.Open(kHealthWatchesPerConnectionMax - 3), kHealthWatchesPerConnectionMax - 3)
      << "as long as it has fewer";
  EXPECT_EQ(other.Open(1), 0) << "it would have as many as any";
}

TEST(HealthService, WhereEachHasOneNobodyGivesWay) {
  TinyServer server;
  std::deque<Client> clients;
  for (int i = 0; i < kHealthWatchersMax; ++i) {
    ASSERT_EQ(clients.emplace_back(server).Open(1), 1);
  }
  EXPECT_EQ(Client(server).Open(1), 0);
}

}  // namespace
}  // namespace lorica
