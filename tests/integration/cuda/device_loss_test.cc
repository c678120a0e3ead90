// Goal: a GPU that fails for good ends every stream Unavailable and the server says so.
#include <gtest/gtest.h>

#include <thread>

#include "tests/integration/cuda/break_device.h"
#include "tests/integration/cuda/gpu.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

TEST(DeviceLoss, EndsStreamsUnavailableAndIsNotServing) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  Config config;
  config.device = "cuda";
  TinyServer server(config);
  absl::Status ended;
  std::thread waits([&] { ended = server.server().Wait(); });

  constexpr int kStreams = 3;
  std::vector<Context> contexts(kStreams);
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>>> readers;
  for (Context& context : contexts) {
    readers.push_back(server.inference().GenerateStream(&context, TokensRequest(480)));
  }
  v1::GenerateStreamResponse chunk;
  ASSERT_TRUE(readers[0]->Read(&chunk));
  BreakDevice();
  for (auto& reader : readers) {
    while (reader->Read(&chunk)) {
    }
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  }
  waits.join();
  EXPECT_EQ(ended.code(), absl::StatusCode::kInternal) << ended;
  EXPECT_EQ(server.Status().state(), v1::SERVING_STATE_FAILED);
  Context context;
  v1::GenerateResponse response;
  const grpc::Status refused = server.inference().Generate(&context, TokensRequest(2), &response);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE) << refused.error_message();
}

}  // namespace
}  // namespace lorica
