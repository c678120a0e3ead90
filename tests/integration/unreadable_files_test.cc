// Goal: a file of the operator's whose disk fails is refused with a sentence when a server starts
// or reads it again: not taken for an empty or a shorter one, and no end of the process. Row 105.
#include <sys/stat.h>

#include <cerrno>
#include <functional>

#include "absl/strings/str_cat.h"
#include "adapters/hub/hub_source.h"
#include "adapters/hub/object_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/api/server_tls.h"
#include "server/api/tenants.h"
#include "server/models/families/family.h"
#include "server/usage_file.h"
#include "tests/fakes/disk_shim.h"
#include "tests/fakes/made_certificate.h"
#include "tests/fakes/temporary_folder.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;

TEST(UnreadableFiles, AreRefusedWithASentence) {
  const TemporaryFolder folder;
  fakes::DiskShim shim(folder.path());
  const std::string path = folder.path() + "/file";
  MakeCertificate(folder, "tls", "127.0.0.1", absl::Now() + absl::Hours(24));
  const TlsPaths tls = {folder.path() + "/tls.pem", folder.path() + "/tls.key", ""};
  Accounts accounts(absl::Now);
  struct Reader {
    std::string content;
    std::function<absl::Status()> read;
  };
  const std::vector<Reader> readers = {
      {R"({"since_unix_ms": 1, "rows": []})",
       [&] { return UsageFile::Open(path, &accounts).status(); }},
      {"{}", [&] { return ReadTextFile(path, 1 << 20).status(); }},
      {absl::StrCat(R"({"tenants": [{"name": "a", "adapters": ["*"], "keys": [")",
                    std::string(64, 'a'), R"("]}]})"),
       [&] { return Tenants().LoadFile(path); }},
      {"one-token", [&] { return ReadTokenFile(path).status(); }},
      {"a certificate", [&] { return ServerTls::Read(tls).status(); }},
      {"[default]\naws_access_key_id = a\naws_secret_access_key = b\n",
       [&] { return ReadAwsKeys(path).status(); }}};
  for (const Reader& reader : readers) {
    SCOPED_TRACE(reader.content);
    folder.Write("file", reader.content);
    bool failed = true;
    for (int k = 1; failed; ++k) {
      SCOPED_TRACE(absl::StrCat("read ", k));
      shim.FailReadsFrom(k, EIO);
      const absl::Status status = reader.read();
      failed = shim.failed();
      shim.FailReadsFrom(0, 0);
      EXPECT_EQ(status.ok(), !failed) << status;
      if (failed) {
        EXPECT_THAT(std::string(status.message()), HasSubstr("cannot be read"));
      }
      EXPECT_TRUE(failed || k > 1);
      ASSERT_LT(k, 10);
    }
  }
}

// Nobody would ever write into it, and the thread that takes signals reads these files.
TEST(UnreadableFiles, AFifoIsRefusedAndNotWaitedFor) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/file";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  for (const absl::Status& status :
       {Tenants().LoadFile(path), ReadTokenFile(path).status(),
        ServerTls::Read({path, path, ""}).status(), ReadAwsKeys(path).status()}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr("cannot be read"));
  }
}

}  // namespace
}  // namespace lorica
