// Goal: a registry that is full, damaged or gone refuses changes in time and with its code; what is
// known is served on, and no server starts on what it cannot trust.
#include <sched.h>
#include <sqlite3.h>
#include <sys/mount.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/fakes/faulty_vfs.h"
#include "tests/integration/bystander.h"

namespace lorica {
namespace {

namespace fs = std::filesystem;
using grpc::StatusCode;

class HostileDisk : public BystanderTest {
 protected:
  HostileDisk() { config().data_dir = data(); }
  StatusCode Register(const std::string& id) { return RegisterAt(server(), id); }
  static StatusCode RegisterAt(TinyServer& server, const std::string& id) {
    const absl::Time begun = absl::Now();
    Context context;
    v1::RegisterAdapterRequest request;
    request.set_adapter_id(id);
    request.set_source("plain");
    v1::RegisterAdapterResponse response;
    const grpc::Status status = server.admin().RegisterAdapter(&context, request, &response);
    EXPECT_LT(absl::Now() - begun, kAnswerMax) << status.error_message();
    return status.error_code();
  }
  int64_t Copies() const {
    const fs::directory_iterator copies(data() + "/registered");
    return std::count_if(begin(copies), end(copies), [](const fs::directory_entry& entry) {
      return entry.path().filename().string().size() == 64;  // a digest
    });
  }
  std::string Registry() const { return data() + "/registry.db"; }
  // Behind the first page's head, which names the format.
  static void Damage(const std::string& path) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(24);
    file << std::string(fs::file_size(path) - 24, '\x5a');
  }
  // In a thread whose folders can be mounted as nobody else sees it, and what it starts: of a
  // folder without write permission root would notice nothing. False where that may not be done.
  static bool WithOwnMounts(const std::function<void()>& work) {
    bool done = false;
    std::thread([&] {
      done = unshare(CLONE_FS | CLONE_NEWNS) == 0 &&
             mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
      if (done) work();
    }).join();
    return done;
  }
  static void MakeReadOnly(const std::string& path) {
    ASSERT_EQ(mount(path.c_str(), path.c_str(), nullptr, MS_BIND, nullptr), 0);
    ASSERT_EQ(mount("none", path.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr), 0);
    ASSERT_FALSE(std::ofstream(path + "/new").is_open());
  }
  static void Sql(const std::string& path, const char* sql) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, sql, nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(db);
  }

  fakes::FaultyVfs vfs_;
};

// Row 105.
TEST_F(HostileDisk, AFullDiskRefusesAChangeAndTheNextOneMayGoBetter) {
  ASSERT_EQ(Register("one"), StatusCode::OK);
  vfs_.FailWrites(1, SQLITE_FULL);
  EXPECT_EQ(Register("two"), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(CodeOfAdapter("two"), StatusCode::NOT_FOUND) << "nothing half";
  EXPECT_EQ(TokensOf("one"), TokensOf("plain"));
  EXPECT_EQ(Register("two"), StatusCode::OK);
  EXPECT_EQ(TokensOf("two"), TokensOf("plain"));
}

// Row 105.
TEST_F(HostileDisk, AFailedDiskRefusesAllChangesAndWhatIsKnownIsServed) {
  ASSERT_EQ(Register("one"), StatusCode::OK);
  vfs_.FailSyncs(1, SQLITE_IOERR_FSYNC);
  EXPECT_EQ(Register("two"), StatusCode::UNAVAILABLE);
  EXPECT_EQ(Register("three"), StatusCode::UNAVAILABLE);
  EXPECT_EQ(TokensOf("one"), TokensOf("plain"));
}

// Row 106, while it runs.
TEST_F(HostileDisk, ARegistryThatIsDamagedOrGoneRefusesChangesAndWhatIsKnownIsServed) {
  ASSERT_EQ(Register("one"), StatusCode::OK);
  Damage(Registry());
  EXPECT_EQ(Register("two"), StatusCode::UNAVAILABLE);
  EXPECT_EQ(TokensOf("one"), TokensOf("plain"));
  fs::rename(Registry(), Registry() + ".away");
  EXPECT_EQ(Register("three"), StatusCode::UNAVAILABLE);
  EXPECT_EQ(TokensOf("one"), TokensOf("plain"));
}

// Row 106: of many changes at once none waits for the others' waits, and whoever only asks gets
// an answer.
TEST_F(HostileDisk, ARegistryThatAnotherProgramHoldsRefusesAllChangesInTime) {
  ASSERT_EQ(Register("one"), StatusCode::OK);
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(Registry().c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN EXCLUSIVE", nullptr, nullptr, nullptr), SQLITE_OK);
  std::vector<std::thread> callers;
  for (int i = 0; i < 16; ++i) {
    callers.emplace_back([this, i] {
      const grpc::Status status = BystanderTest::Register(absl::StrCat("held", i), "other");
      EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE) << status.error_message();
      EXPECT_THAT(status.error_message(), testing::HasSubstr("another program holds"));
    });
  }
  absl::SleepFor(absl::Milliseconds(200));
  callers.emplace_back([this] {
    EXPECT_TRUE(Timed([this] {
                  Context context;
                  v1::GetAdapterRequest request;
                  request.set_adapter_id("one");
                  v1::GetAdapterResponse response;
                  return server().admin().GetAdapter(&context, request, &response);
                }).ok());
  });
  EXPECT_EQ(TokensOf("one"), TokensOf("plain"));
  for (std::thread& caller : callers) caller.join();
  sqlite3_close(other);
  EXPECT_EQ(CodeOfAdapter("held0"), StatusCode::NOT_FOUND);
  EXPECT_EQ(Register("two"), StatusCode::OK);
  EXPECT_EQ(TokensOf("two"), TokensOf("plain"));
  EXPECT_EQ(Copies(), 1) << "of what is registered";
}

// Row 106.
TEST_F(HostileDisk, InAFolderThatMayNotBeWrittenNothingChangesAndNoServerStarts) {
  ASSERT_EQ(Register("one"), StatusCode::OK);
  const TemporaryFolder folder;
  const bool done = WithOwnMounts([&] {
    Config config;
    config.data_dir = folder.path();
    {
      TinyServer second(config);
      ASSERT_EQ(RegisterAt(second, "one"), StatusCode::OK);
      ASSERT_NO_FATAL_FAILURE(MakeReadOnly(folder.path()));
      EXPECT_EQ(RegisterAt(second, "two"), StatusCode::UNAVAILABLE);
      Context context;
      v1::GenerateRequest request = TokensRequest(2);
      request.set_adapter_id("one");
      v1::GenerateResponse response;
      EXPECT_TRUE(second.inference().Generate(&context, request, &response).ok());
      request.set_adapter_id("two");
      Context other;
      EXPECT_EQ(second.inference().Generate(&other, request, &response).error_code(),
                StatusCode::NOT_FOUND);
    }
    config.model = TinyModelPath();
    config.adapters_dir = server().adapters().path();
    config.grpc_address = "127.0.0.1:0";
    const auto started = Server::Start(config);
    EXPECT_EQ(started.status().code(), absl::StatusCode::kFailedPrecondition) << started.status();
    EXPECT_THAT(std::string(started.status().message()), testing::HasSubstr("cannot be written"));
  });
  if (!done) GTEST_SKIP() << "nothing may be mounted here: " << std::strerror(errno);
  EXPECT_EQ(Register("two"), StatusCode::OK);
}

// Row 106, at the start; the first server goes on.
TEST_F(HostileDisk, NoServerStartsOnARegistryThatItCannotTrust) {
  ASSERT_EQ(Register("one"), StatusCode::OK);
  const std::map<std::string, std::function<void(const std::string&)>> harm = {
      {"damaged", [](const std::string& path) { Damage(path); }},
      {"another file",
       [](const std::string& path) { std::ofstream(path) << std::string(99, 'x'); }},
      {"newer", [](const std::string& path) { Sql(path, "PRAGMA user_version = 99"); }},
      {"without a table", [](const std::string& path) { Sql(path, "DROP TABLE names"); }},
      {"a folder", [](const std::string& path) {
         fs::remove(path);
         fs::create_directory(path);
       }}};
  for (const auto& [name, change] : harm) {
    SCOPED_TRACE(name);
    TemporaryFolder folder;
    Config second = config();
    second.model = TinyModelPath();
    second.adapters_dir = server().adapters().path();
    second.grpc_address = "127.0.0.1:0";
    second.data_dir = folder.path();
    fs::copy_file(Registry(), folder.path() + "/registry.db");
    change(folder.path() + "/registry.db");
    const absl::Time begun = absl::Now();
    const auto started = Server::Start(second);
    EXPECT_LT(absl::Now() - begun, kAnswerMax);
    EXPECT_EQ(started.status().code(), absl::StatusCode::kFailedPrecondition) << started.status();
    EXPECT_THAT(std::string(started.status().message()), testing::HasSubstr("registry.db"));
  }
  EXPECT_EQ(Register("two"), StatusCode::OK);
  EXPECT_EQ(TokensOf("two"), TokensOf("plain"));
}

}  // namespace
}  // namespace lorica
