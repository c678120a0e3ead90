#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/fakes/fake_server.h"
#include "tests/fakes/subprocess.h"

namespace lorica {
namespace {

constexpr int kSkipped = 77;

TEST(PythonClient, GeneratesThroughAnAdapterWithStubsFromTheProto) {
  FakeServer server;
  const RunResult run = RunToEnd(
      {LORICA_SOURCE_DIR "/tests/clients/run_python_client.sh", server.address(), "ticket-triage"});
  if (run.code == kSkipped) GTEST_SKIP() << run.error;
  EXPECT_EQ(run.code, 0) << run.error;
  EXPECT_EQ(run.output, "Once upon a time\n");
  EXPECT_EQ(server.requests()[0].adapter_id(), "ticket-triage");
}

}  // namespace
}  // namespace lorica
