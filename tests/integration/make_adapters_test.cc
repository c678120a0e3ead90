// Goal: the documented way to a shape's random adapters ends with adapters that are served.
#include <gtest/gtest.h>

#include <set>

#include "tests/fakes/subprocess.h"
#include "tests/integration/server_process.h"

namespace lorica {
namespace {

TEST(MakeAdapters, WhatItWritesForAShapeIsServedAndChangesTheAnswer) {
  const std::string shape = std::string(LORICA_TEST_DATA) + "/shapes/tiny";
  const TemporaryFolder adapters;
  const RunResult made = RunToEnd(
      {"/usr/bin/env", "python3", LORICA_SOURCE_DIR "/tests/bench/make_adapters.py",
       adapters.path(), "--config", shape + "/config.json", "--count", "3", "--ranks", "8,33,256"});
  ASSERT_EQ(made.code, 0) << made.error;
  ServerProcess::Options options;
  options.model = shape;
  options.adapters_dir = adapters.path();
  options.flags = {"--load-format", "dummy", "--arena-bytes", "64MiB"};
  const auto server = ServerProcess::Start(options);
  ASSERT_TRUE(server.ok()) << server.status();
  std::vector<v1::GenerateRequest> requests;
  for (const char* id : {"", "r0000", "r0001", "r0002"}) {
    v1::GenerateRequest& request = requests.emplace_back();
    for (const int token : {1, 17, 400}) request.add_token_ids(token);
    request.set_max_tokens(20);
    request.set_temperature(0);
    request.set_ignore_eos(true);
    request.set_adapter_id(id);
  }
  std::set<std::vector<int32_t>> answers;
  for (const Generated& answer : GenerateAll(**server, requests, 4)) {
    ASSERT_TRUE(answer.status.ok()) << answer.status;
    answers.insert(answer.token_ids);
  }
  EXPECT_EQ(answers.size(), requests.size());
}

}  // namespace
}  // namespace lorica
