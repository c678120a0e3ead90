// Goal: whichever read of an adapter's files fails, the call that needed it is refused in time with
// what to do, is counted, touches nobody else, and goes well once reads do. Row 105.
#include <cerrno>
#include <optional>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/fakes/disk_shim.h"
#include "tests/integration/bystander.h"

namespace lorica {
namespace {

using grpc::StatusCode;
using ::testing::HasSubstr;

// A failed load or merge is remembered for ten seconds, give or take a quarter.
const absl::Duration kRememberedMax = kInstrumentationFactor * absl::Seconds(14);

class HostileReads : public BystanderTest {
 protected:
  HostileReads() { config().data_dir = data(); }
  static std::string Fresh(int k) { return absl::StrCat("fresh", k); }
  // Another content for each, so that nothing of it has been read before.
  static void WriteFresh(TinyServer& server, int k) {
    WriteTinyAdapter(server.adapters(), Fresh(k), 4, /*dora=*/false, /*seed=*/k);
  }
  // Calls act(1), act(2) and so on, for fresh1 and so on, of which the first, the second and so
  // on read fails with all that follow, until one needs fewer reads. Returns how many failed.
  int FailEachRead(const std::function<grpc::Status(int)>& act) {
    TinyServer& asked = server();
    if (!shim_) shim_.emplace(asked.adapters().path());
    for (int k = 1;; ++k) {
      SCOPED_TRACE(absl::StrCat("read ", k));
      WriteFresh(asked, k);
      shim_->FailReadsFrom(k, EIO);
      const grpc::Status status = act(k);
      const bool failed = shim_->failed();
      shim_->FailReadsFrom(0, 0);
      EXPECT_EQ(status.error_code(), failed ? StatusCode::UNAVAILABLE : StatusCode::OK)
          << status.error_message();
      if (!failed) return k - 1;
      EXPECT_THAT(status.error_message(), HasSubstr("Input/output error; ask again"));
    }
  }
  // Until what failed is forgotten.
  static grpc::Status InTheEnd(const std::function<grpc::Status()>& act) {
    const absl::Time end = SteadyNow() + kRememberedMax;
    for (;;) {
      grpc::Status status = act();
      if (status.ok() || SteadyNow() > end) return status;
      absl::SleepFor(absl::Milliseconds(200));
    }
  }
  grpc::Status GenerateWith(const std::string& adapter) {
    v1::GenerateRequest request = TokensRequest(2);
    request.set_adapter_id(adapter);
    return Generate(request);
  }
  int64_t Counted() {
    const v1::Counters counters = server().Status().counters();
    return counters.requests_refused() + counters.requests_failed();
  }

 private:
  std::optional<fakes::DiskShim> shim_;  // beyond the server's life, which ends in TearDown
};

TEST_F(HostileReads, AnyOfACallsMayFail) {
  const int64_t counted = Counted();
  const int64_t load_failures = server().Status().counters().adapter_load_failures();
  const int failed = FailEachRead([&](int k) { return GenerateWith(Fresh(k)); });
  EXPECT_GT(failed, 6) << "it is looked at, and then loaded";
  EXPECT_EQ(Counted(), counted + failed);
  EXPECT_GT(server().Status().counters().adapter_load_failures(), load_failures + 2);
  TinyServer healthy;
  for (int k = 1; k <= failed; ++k) {
    SCOPED_TRACE(Fresh(k));
    const grpc::Status status = InTheEnd([&] { return GenerateWith(Fresh(k)); });
    ASSERT_TRUE(status.ok()) << status.error_message();
    WriteFresh(healthy, k);
    v1::GenerateRequest request = TokensRequest(24);
    request.set_adapter_id(Fresh(k));
    v1::GenerateResponse wanted;
    Context context;
    ASSERT_TRUE(healthy.inference().Generate(&context, request, &wanted).ok());
    EXPECT_THAT(TokensOf(Fresh(k)), testing::ElementsAreArray(wanted.token_ids()));
  }
}

TEST_F(HostileReads, AnyOfARegistrationsMayFail) {
  const auto register_it = [&](int k) { return Register(absl::StrCat("name", k), Fresh(k)); };
  const int failed = FailEachRead(register_it);
  EXPECT_GT(failed, 5) << "it is looked at and copied";
  for (int k = 1; k <= failed; ++k) {
    const std::string name = absl::StrCat("name", k);
    SCOPED_TRACE(name);
    EXPECT_EQ(CodeOfAdapter(name), StatusCode::NOT_FOUND) << "nothing half";
    EXPECT_TRUE(register_it(k).ok());
    EXPECT_EQ(TokensOf(name), TokensOf(Fresh(k)));
  }
}

TEST_F(HostileReads, AnyOfAChecksMayFail) {
  const int failed = FailEachRead([&](int k) {
    Context context;
    v1::CheckAdapterRequest request;
    request.set_source(Fresh(k));
    v1::CheckAdapterResponse response;
    return Timed([&] { return server().admin().CheckAdapter(&context, request, &response); });
  });
  EXPECT_GT(failed, 3);
}

TEST_F(HostileReads, AnyOfAMergesMayFail) {
  const auto merge = [&](int k) {
    Context context;
    v1::MergeAdaptersRequest request;
    request.set_adapter_id(absl::StrCat("merge", k));
    for (const std::string& part : {Fresh(k), std::string("plain")}) {
      v1::MergePart* const added = request.add_parts();
      added->set_adapter_id(part);
      added->set_weight(1);
    }
    request.set_method(v1::MERGE_METHOD_LINEAR);
    v1::MergeAdaptersResponse response;
    return Timed([&] { return server().admin().MergeAdapters(&context, request, &response); });
  };
  const int failed = FailEachRead(merge);
  EXPECT_GT(failed, 6) << "parts are looked at, then read";
  for (int k = 1; k <= failed; ++k) {
    SCOPED_TRACE(k);
    EXPECT_EQ(CodeOfAdapter(absl::StrCat("merge", k)), StatusCode::NOT_FOUND);
    const grpc::Status status = InTheEnd([&] { return merge(k); });
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
}

}  // namespace
}  // namespace lorica
