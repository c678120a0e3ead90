// Goal: connections leave descriptors to others, and nothing that they do ends the listener.
#include "server/api/listener.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace lorica {
namespace {

constexpr int kLimit = 200;
constexpr int kSpare = 60;

class ListenerTest : public ::testing::Test {
 protected:
  ListenerTest() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    Allow(kLimit);
    auto listener = Listener::Listen({"127.0.0.1:0", "--flag", kSpare});
    EXPECT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
    thread_ = std::thread([this] {
      for (int taken = listener_->Accept(); taken >= 0; taken = listener_->Accept()) {
        last_taken_.store(taken);
      }
    });
  }
  ~ListenerTest() override {
    listener_->Close();
    thread_.join();
    for (const int descriptor : held_) {
      if (descriptor >= 0) ::close(descriptor);
    }
    ::setrlimit(RLIMIT_NOFILE, &before_);
  }
  void Allow(int descriptors) const {
    const rlimit limit{std::min<rlim_t>(descriptors, before_.rlim_max), before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  // Until the next one is `next`.
  void HoldUpTo(int next) {
    for (int taken = ::dup(0); taken >= 0; taken = ::dup(0)) {
      if (taken >= next) {
        ::close(taken);
        return;
      }
      held_.push_back(taken);
    }
  }
  int NewSocket() {
    held_.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval patience{10, 0};
    ::setsockopt(held_.back(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return held_.back();
  }
  void Connect(int socket) const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(listener_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  int AwaitTaken() const {
    for (int i = 0; i < 500 && last_taken_.load() < 0; ++i) absl::SleepFor(absl::Milliseconds(10));
    return last_taken_.load();
  }
  // An accept that waits has set a descriptor aside already. Connects somebody who takes it; what
  // he got, -1 if he was hung up on or still waits.
  int TakeWhatIsSetAside(int socket) {
    Connect(socket);
    pollfd hung_up{socket, POLLIN, 0};
    for (int i = 0; i < 20 && last_taken_.load() < 0; ++i) {
      if (::poll(&hung_up, 1, /*timeout_ms=*/10) > 0) break;
    }
    const int taken = last_taken_.exchange(-1);
    if (taken >= 0) held_.push_back(taken);
    return taken;
  }

  rlimit before_{};
  std::unique_ptr<Listener> listener_;
  std::thread thread_;
  std::vector<int> held_;
  std::atomic<int> last_taken_{-1};
};

TEST_F(ListenerTest, TheLastDescriptorBeforeTheSpareOnesIsTaken) {
  constexpr int kLast = kLimit - kSpare - 1;
  const int first = NewSocket(), second = NewSocket();
  HoldUpTo(kLast);
  if (TakeWhatIsSetAside(first) == kLast) return;
  Connect(second);
  EXPECT_EQ(AwaitTaken(), kLast);
  ::close(last_taken_.load());
}

TEST_F(ListenerTest, WhoWouldTakeASpareOneIsHungUpOn) {
  const int first = NewSocket(), second = NewSocket();
  HoldUpTo(kLimit - kSpare);
  TakeWhatIsSetAside(first);
  Connect(second);
  char byte = 0;
  EXPECT_EQ(::recv(second, &byte, 1, 0), 0);
  EXPECT_EQ(last_taken_.load(), -1);
}

TEST_F(ListenerTest, WhoComesWhileThereAreNoneIsTakenAfterwards) {
  const int first = NewSocket(), second = NewSocket();
  HoldUpTo(kLimit);
  const size_t held = held_.size();
  TakeWhatIsSetAside(first);
  Connect(second);
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(last_taken_.load(), -1);
  for (int i = 1; i <= kSpare + 2; ++i) ::close(std::exchange(held_[held - i], -1));
  EXPECT_GE(AwaitTaken(), 0);
  ::close(last_taken_.load());
}

TEST_F(ListenerTest, AnAddressThatIsTakenIsToldWithItsFlag) {
  const auto second =
      Listener::Listen({absl::StrCat("127.0.0.1:", listener_->port()), "--flag", kSpare});
  ASSERT_FALSE(second.ok());
  EXPECT_TRUE(absl::StrContains(second.status().message(), "choose another with --flag"))
      << second.status();
}

}  // namespace
}  // namespace lorica
