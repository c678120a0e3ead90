// Goal: the document at /openapi.json tells the truth about every HTTP route.
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/fakes/subprocess.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

constexpr int kSkipped = 77;
constexpr absl::Duration kLimit = absl::Seconds(60);

TEST(SchemathesisTest, FindsNothing) {
  TinyServer server;
  const std::string url = absl::StrCat("http://127.0.0.1:", server.server().http_port());
  const auto run = [&url](const char* seed) {
    return RunToEnd({"/usr/bin/env", absl::StrCat("LORICA_SEED=", seed),
                     LORICA_SOURCE_DIR "/tests/clients/run_schemathesis.sh", url});
  };
  // An environment that had to be made is not counted: the first run may be the slower one.
  absl::Time began = absl::Now();
  RunResult result = run("1");
  if (result.code == kSkipped) GTEST_SKIP() << "no Python environment";
  if (absl::StrContains(result.error, "making ")) {
    began = absl::Now();
    result = run("2");
  }
  EXPECT_EQ(result.code, 0) << result.output << result.error;
  EXPECT_LT(absl::Now() - began, kLimit);
  EXPECT_TRUE(server.Status().state() == v1::SERVING_STATE_SERVING);
}

// What it is not told of it cannot look at.
TEST(SchemathesisTest, EveryServiceOfOperatorsIsInTheDocument) {
  TinyServer server;
  const int port = server.server().http_port();
  const auto document = HttpCall(port, "GET", "/openapi.json").json();
  int methods = 0;
  for (const auto* file :
       {v1::Adapter::descriptor()->file(), v1::GetStatusResponse::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const auto* method = file->service(s)->method(m);
        if (method->server_streaming()) continue;
        ++methods;
        const std::string path =
            absl::StrCat("/", file->service(s)->full_name(), "/", method->name());
        EXPECT_TRUE(document["paths"].contains(path)) << path;
        EXPECT_EQ(HttpCall(port, "GET", path).status, 405) << path;
      }
    }
  }
  EXPECT_GT(methods, 10);
}

}  // namespace
}  // namespace lorica
