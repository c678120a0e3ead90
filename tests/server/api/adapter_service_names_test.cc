// Names that move and stay, through a whole server: under load, and across restarts.
#include <atomic>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

Config DataIn(const TemporaryFolder& folder) {
  Config config;
  config.data_dir = folder.path();
  return config;
}

struct Answered {
  grpc::Status status;
  std::string generation;
  std::vector<int32_t> tokens;
};

Answered Generate(TinyServer& server, const std::string& id, int tokens = 24) {
  Context context;
  v1::GenerateRequest request = TokensRequest(tokens);
  request.set_adapter_id(id);
  v1::GenerateResponse response;
  const grpc::Status status = server.inference().Generate(&context, request, &response);
  return {status,
          response.adapter().generation(),
          {response.token_ids().begin(), response.token_ids().end()}};
}

grpc::Status Register(TinyServer& server, const std::string& id, const std::string& source,
                      bool replace = false, const std::string& expected = "") {
  Context context;
  v1::RegisterAdapterRequest request;
  request.set_adapter_id(id);
  request.set_source(source);
  request.set_replace(replace);
  request.set_expected_generation(expected);
  v1::RegisterAdapterResponse response;
  return server.admin().RegisterAdapter(&context, request, &response);
}

grpc::Status Rollback(TinyServer& server, const std::string& id) {
  Context context;
  v1::RollbackAdapterRequest request;
  request.set_adapter_id(id);
  v1::RollbackAdapterResponse response;
  return server.admin().RollbackAdapter(&context, request, &response);
}

// A name moves to and fro while four clients use it. Every request is answered, by one
// version from its first token to its last; what was acknowledged is what the next
// request gets.
TEST(AdapterServiceNames, MovesUnderLoadNeitherFailNorMixRequests) {
  const TemporaryFolder data;
  TinyServer server(DataIn(data));
  std::map<std::string, std::vector<int32_t>> expected;
  std::vector<std::string> generations;
  for (const char* id : {"plain", "other"}) {
    const Answered alone = Generate(server, id);
    ASSERT_TRUE(alone.status.ok()) << alone.status.error_message();
    expected[alone.generation] = alone.tokens;
    generations.push_back(alone.generation);
  }
  ASSERT_NE(expected[generations[0]], expected[generations[1]]);
  ASSERT_TRUE(Register(server, "app", "plain").ok());

  std::atomic<bool> stop = false;
  std::atomic<int> answers = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&] {
      while (!stop) {
        const Answered answer = Generate(server, "app");
        ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
        ASSERT_EQ(expected.count(answer.generation), 1u);
        ASSERT_EQ(answer.tokens, expected[answer.generation]);
        ++answers;
      }
    });
  }
  int moves = 0;
  for (; moves < 40 || answers < 40; ++moves) {
    const bool forward = moves % 2 == 0;
    const grpc::Status moved =
        forward ? Register(server, "app", "other", true) : Rollback(server, "app");
    ASSERT_TRUE(moved.ok()) << moved.error_message();
    ASSERT_EQ(Generate(server, "app", 2).generation, generations[forward ? 1 : 0]);
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  std::printf("%d moves under %d answers\n", moves, answers.load());
  EXPECT_EQ(server.Status().counters().requests_failed(), 0);
}

// An alias goes to and fro and its targets come and go, some of them by what they are expected to
// be, while four clients use all of them. A name that is there is answered by one version; one that
// is deleted is unknown, and to nobody who had it already.
TEST(AdapterServiceNames, AliasesDeletionsAndExpectedMovesUnderLoad) {
  const TemporaryFolder data;
  TinyServer server(DataIn(data));
  std::map<std::string, std::vector<int32_t>> expected;
  std::map<std::string, std::string> generations;
  for (const char* id : {"plain", "other"}) {
    const Answered alone = Generate(server, id);
    ASSERT_TRUE(alone.status.ok()) << alone.status.error_message();
    expected[alone.generation] = alone.tokens;
    generations[id] = alone.generation;
    ASSERT_TRUE(Register(server, std::string("named-") + id, id).ok());
  }
  const auto point = [&](const std::string& target) {
    Context context;
    v1::SetAliasRequest request;
    request.set_alias("live");
    request.set_adapter_id(target);
    request.set_replace(true);
    v1::SetAliasResponse response;
    return server.admin().SetAlias(&context, request, &response);
  };
  const auto remove = [&](const std::string& id) {
    Context context;
    v1::DeleteAdapterRequest request;
    request.set_adapter_id(id);
    v1::DeleteAdapterResponse response;
    return server.admin().DeleteAdapter(&context, request, &response);
  };
  ASSERT_TRUE(point("named-plain").ok());

  std::atomic<bool> stop = false;
  std::atomic<int> answers = 0;
  std::atomic<int> unknown = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&, id = std::string(i < 2 ? "live" : "fleeting")] {
      while (!stop) {
        const Answered answer = Generate(server, id);
        if (id == "fleeting" && answer.status.error_code() == StatusCode::NOT_FOUND) {
          ++unknown;
          continue;
        }
        ASSERT_TRUE(answer.status.ok()) << id << ": " << answer.status.error_message();
        ASSERT_EQ(expected.count(answer.generation), 1u);
        ASSERT_EQ(answer.tokens, expected[answer.generation]);
        ++answers;
      }
    });
  }
  for (int move = 0; move < 40 || answers < 40; ++move) {
    const std::string to = move % 2 == 0 ? "other" : "plain";
    const std::string from = move % 2 == 0 ? "plain" : "other";
    ASSERT_TRUE(point("named-" + to).ok());
    ASSERT_EQ(Generate(server, "live", 2).generation, generations[to]);
    ASSERT_TRUE(Register(server, "fleeting", from).ok());
    ASSERT_EQ(Register(server, "fleeting", to, false, generations[to]).error_code(),
              StatusCode::ABORTED);
    ASSERT_TRUE(Register(server, "fleeting", to, false, generations[from]).ok());
    ASSERT_EQ(Generate(server, "fleeting", 2).generation, generations[to]);
    ASSERT_TRUE(remove("fleeting").ok());
    ASSERT_EQ(Generate(server, "fleeting", 2).status.error_code(), StatusCode::NOT_FOUND);
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  std::printf("%d answers, %d times unknown\n", answers.load(), unknown.load());
  EXPECT_EQ(server.Status().counters().requests_failed(), 0);
}

TEST(AdapterServiceNames, SurviveARestartAndTheLossOfTheirFolder) {
  const TemporaryFolder data;
  std::string generation;
  {
    TinyServer server(DataIn(data));
    generation = Generate(server, "plain").generation;
    ASSERT_TRUE(Register(server, "app", "plain").ok());
    Context context;
    v1::SetAliasRequest request;
    request.set_alias("live");
    request.set_adapter_id("app");
    v1::SetAliasResponse response;
    ASSERT_TRUE(server.admin().SetAlias(&context, request, &response).ok());
    EXPECT_EQ(response.adapter().alias_of(), "app");
  }
  TinyServer server(DataIn(data));  // its adapters folder is another one
  std::filesystem::remove_all(server.adapters().path() + "/plain");
  for (const char* id : {"app", "live"}) {
    const Answered answer = Generate(server, id);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.generation, generation);
  }
}

TEST(AdapterServiceNames, HistoryAndRollbackAreToldToClients) {
  TinyServer server;
  ASSERT_TRUE(Register(server, "app", "plain").ok());
  EXPECT_EQ(Rollback(server, "app").error_code(), StatusCode::NOT_FOUND);
  EXPECT_EQ(Rollback(server, "").error_code(), StatusCode::INVALID_ARGUMENT);
  ASSERT_TRUE(Register(server, "app", "other", true).ok());
  EXPECT_EQ(Register(server, "app", "plain", false, std::string(64, '0')).error_code(),
            StatusCode::ABORTED);
  Context context;
  v1::GetAdapterRequest request;
  request.set_adapter_id("app");
  v1::GetAdapterResponse response;
  ASSERT_TRUE(server.admin().GetAdapter(&context, request, &response).ok());
  ASSERT_EQ(response.history_size(), 2);
  EXPECT_EQ(response.history(0).source(), "plain");
  EXPECT_FALSE(response.history(0).current());
  EXPECT_EQ(response.history(1).generation(), response.adapter().generation());
  EXPECT_TRUE(response.history(1).current());
  EXPECT_TRUE(response.adapter().registered());
}

TEST(AdapterServiceNames, ADeletedFolderTellsHowToBringItBack) {
  TinyServer server;
  Context context;
  v1::DeleteAdapterRequest request;
  request.set_adapter_id("plain");
  v1::DeleteAdapterResponse response;
  ASSERT_TRUE(server.admin().DeleteAdapter(&context, request, &response).ok());
  const Answered answer = Generate(server, "plain");
  EXPECT_EQ(answer.status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("register it to bring it back"));
  for (const bool show : {false, true}) {
    Context listing;
    v1::ListAdaptersRequest list;
    list.set_prefix("plain");
    list.set_show_deleted(show);
    v1::ListAdaptersResponse listed;
    ASSERT_TRUE(server.admin().ListAdapters(&listing, list, &listed).ok());
    ASSERT_EQ(listed.adapters_size(), show ? 1 : 0);
    if (show) {
      EXPECT_TRUE(listed.adapters(0).deleted());
      EXPECT_EQ(listed.adapters(0).state(), v1::ADAPTER_STATE_AVAILABLE);
    }
  }
  ASSERT_TRUE(Register(server, "plain", "").ok());
  EXPECT_TRUE(Generate(server, "plain").status.ok());
}

absl::Status StartIn(const TemporaryFolder& data) {
  Config config = DataIn(data);
  config.model = std::string(LORICA_TEST_DATA) + "/reference/tiny-llama";
  config.grpc_address = "127.0.0.1:0";
  config.arena_bytes = 16 << 20;
  return Server::Start(config).status();
}

TEST(AdapterServiceNames, AServerWithoutItsRegistryDoesNotStart) {
  const TemporaryFolder data;
  data.Write("registry.db", "not a database, whatever it may be called, and long enough to tell");
  const absl::Status started = StartIn(data);
  EXPECT_TRUE(absl::IsFailedPrecondition(started)) << started;
  EXPECT_THAT(std::string(started.message()),
              HasSubstr("move it away together with the copies in " + data.path()));
}

TEST(AdapterServiceNames, ALostRegistryCostsNoCopies) {
  const TemporaryFolder data;
  const std::filesystem::path root = data.path();
  std::string generation;
  {
    TinyServer server(DataIn(data));
    ASSERT_TRUE(Register(server, "app", "plain").ok());
    generation = Generate(server, "app").generation;
  }
  std::filesystem::rename(root / "registry.db", root / "backup.db");
  for (int start = 0; start < 3; ++start) {
    const absl::Status started = StartIn(data);
    EXPECT_TRUE(absl::IsFailedPrecondition(started)) << started;
    EXPECT_TRUE(std::filesystem::exists(root / "registered" / generation));
    data.Write("registry.db", "");
  }
  std::filesystem::rename(root / "registered", root / "copies");
  EXPECT_TRUE(StartIn(data).ok()) << "without registrations";
  std::filesystem::remove(root / "registered");
  std::filesystem::rename(root / "copies", root / "registered");
  std::filesystem::rename(root / "backup.db", root / "registry.db");
  TinyServer server(DataIn(data));
  EXPECT_EQ(Generate(server, "app").generation, generation);
}

}  // namespace
}  // namespace lorica
