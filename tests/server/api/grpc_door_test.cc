// Goal: a server ends its connections also where the process may have nothing more.
#include "server/api/grpc_door.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <system_error>
#include <thread>

#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/server.h"
#include "tests/fakes/no_descriptors.h"
#include "tests/fakes/temporary_folder.h"
#include "tests/fakes/thread_shim.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

const absl::Duration kLong = kInstrumentationFactor * absl::Seconds(10);

int ConnectTo(int port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return socket;
}

// Until the other end has said something, or ended.
bool HearsOf(int socket, short event, absl::Duration time) {
  pollfd entry{socket, event, 0};
  return ::poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(time))) == 1 &&
         (entry.revents & event) != 0;
}

class GrpcDoorTest : public ::testing::Test {
 protected:
  GrpcDoorTest() {
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(&service_);
    auto door = GrpcDoor::Make("127.0.0.1:0", grpc::InsecureServerCredentials(), &builder);
    EXPECT_TRUE(door.ok()) << door.status();
    server_ = builder.BuildAndStart();
    door_ = *std::move(door);
    door_->Open();
  }
  ~GrpcDoorTest() override {
    door_->Close();
    server_->Shutdown();
  }

  grpc::CallbackGenericService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GrpcDoor> door_;
};

TEST_F(GrpcDoorTest, ConnectionsEndWhereTheProcessMayHaveNoDescriptorMore) {
  const int socket = ConnectTo(door_->port());
  ASSERT_TRUE(HearsOf(socket, POLLIN, kLong)) << "it was let in";
  {
    const NoDescriptors none;
    ASSERT_LT(::dup(0), 0);
    door_->EndConnections();
    EXPECT_TRUE(HearsOf(socket, POLLRDHUP, kLong));
  }
  ::close(socket);
}

TEST_F(GrpcDoorTest, OtherSocketsStayAndTheDoorStaysOpen) {
  int others[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, others), 0);
  for (int i = 0; i < 3; ++i) {
    const int socket = ConnectTo(door_->port());
    ASSERT_TRUE(HearsOf(socket, POLLIN, kLong)) << "it was let in";
    door_->EndConnections();
    EXPECT_TRUE(HearsOf(socket, POLLRDHUP, kLong));
    ::close(socket);
  }
  EXPECT_FALSE(HearsOf(others[0], POLLRDHUP, absl::ZeroDuration()));
  ::close(others[0]);
  ::close(others[1]);
}

// The listener and /proc need one each.
TEST(GrpcDoor, IsNotMadeWhereTheProcessMayHaveTooFewDescriptors) {
  constexpr int kNeeded = 2;
  for (int left = 0; left <= kNeeded; ++left) {
    grpc::ServerBuilder builder;
    const NoDescriptors none(left);
    {
      const auto door = GrpcDoor::Make("127.0.0.1:0", grpc::InsecureServerCredentials(), &builder);
      EXPECT_EQ(door.status().code(),
                left < kNeeded ? absl::StatusCode::kUnavailable : absl::StatusCode::kOk)
          << left << door.status();
    }
    std::vector<int> taken;
    for (int i = ::dup(0); i >= 0; i = ::dup(0)) taken.push_back(i);
    EXPECT_EQ(std::ssize(taken), left) << "it keeps none";
    for (const int i : taken) ::close(i);
  }
}

// SQLite's among them: another program would take a change that is under way for one that was cut.
TEST_F(GrpcDoorTest, TheProcessKeepsItsLocksOnFiles) {
  TemporaryFolder folder;
  const int file = ::open((folder.path() + "/locked").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  ASSERT_EQ(::fcntl(file, F_SETLK, &lock), 0);
  const int socket = ConnectTo(door_->port());
  ASSERT_TRUE(HearsOf(socket, POLLIN, kLong)) << "it was let in";
  door_->EndConnections();
  EXPECT_TRUE(HearsOf(socket, POLLRDHUP, kLong));
  const pid_t other = ::fork();
  if (other == 0) {
    struct flock seen = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    ::fcntl(file, F_GETLK, &seen);
    ::_exit(seen.l_type == F_WRLCK ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(other, &status, 0), other);
  EXPECT_EQ(status, 0) << "anybody could lock it";
  ::close(socket);
  ::close(file);
}

#ifndef __SANITIZE_THREAD__
TEST(GrpcDoor, AServerEndsWhereTheProcessMayHaveNoThreadMore) {
  TinyServer server;
  ASSERT_EQ(server.Status().state(), v1::SERVING_STATE_SERVING);
  const absl::Time began = SteadyNow();
  {
    const fakes::NoThreads none;
    EXPECT_THROW(std::thread([] {}), std::system_error);
    server.server().Drain();
    server.server().Stop();
  }
  EXPECT_LT(SteadyNow() - began, kLong);
}
#endif

}  // namespace
}  // namespace lorica
