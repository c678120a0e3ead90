// Goal: the document at /openapi.json tells the truth about every HTTP route.
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <regex>

#include "absl/strings/str_cat.h"
#include "tests/fakes/subprocess.h"
#include "tests/server/api/tiny_server.h"
#include "tests/server/http/http_call.h"

namespace lorica {
namespace {

constexpr int kSkipped = 77;
constexpr int kCasesMin = 3000;  // of 41 operations: fewer, and it was let off something

// How many requests the tool says that it has made, in all of its runs.
int CasesIn(const std::string& output) {
  static const std::regex kGenerated("([0-9]+) generated");
  int cases = 0;
  for (std::sregex_iterator it(output.begin(), output.end(), kGenerated), end; it != end; ++it) {
    cases += std::atoi((*it)[1].str().c_str());
  }
  return cases;
}

TEST(SchemathesisTest, FindsNothing) {
  TinyServer server;
  const RunResult result =
      RunToEnd({LORICA_SOURCE_DIR "/tests/clients/run_schemathesis.sh",
                absl::StrCat("http://127.0.0.1:", server.server().http_port())});
  if (result.code == kSkipped) GTEST_SKIP() << "no Python environment";
  EXPECT_EQ(result.code, 0) << result.output << result.error;
  std::printf("%d cases\n", CasesIn(result.output));
  EXPECT_GT(CasesIn(result.output), kCasesMin) << result.output;
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
