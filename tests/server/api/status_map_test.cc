#include "server/api/status_map.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include "gtest/gtest.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

google::rpc::Status DetailsOf(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

TEST(StatusMap, KeepsEveryCode) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "text");
    EXPECT_EQ(static_cast<int>(ToGrpcStatus(status).error_code()), code);
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(StatusMap, ARefusedFieldBecomesABadRequest) {
  const grpc::Status status = ToGrpcStatus(FieldError("top_p", "must be above 0"));
  EXPECT_EQ(status.error_message(), "top_p must be above 0");
  const google::rpc::Status details = DetailsOf(status);
  EXPECT_EQ(details.code(), 3);
  google::rpc::BadRequest bad;
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&bad));
  EXPECT_EQ(bad.field_violations(0).field(), "top_p");
}

TEST(StatusMap, UnavailableSaysWhenToComeBack) {
  google::rpc::RetryInfo retry;
  const grpc::Status chosen = ToGrpcStatus(TryLater("busy", absl::Milliseconds(2500)));
  ASSERT_TRUE(DetailsOf(chosen).details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
  const grpc::Status plain = ToGrpcStatus(absl::UnavailableError("busy"));
  ASSERT_TRUE(DetailsOf(plain).details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
}

TEST(StatusMap, OtherErrorsHaveNoDetails) {
  EXPECT_EQ(ToGrpcStatus(absl::NotFoundError("no")).error_details(), "");
}

TEST(StatusMap, ThereAndBackKeepsCodeTextAndField) {
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(FieldError("top_p", "must be above 0")));
  EXPECT_EQ(back.message(), "top_p must be above 0");
  EXPECT_TRUE(absl::IsInvalidArgument(back));
  EXPECT_EQ(FieldOf(back), "top_p");
  EXPECT_EQ(FieldOf(FromGrpcStatus(ToGrpcStatus(absl::NotFoundError("no")))), std::nullopt);
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
  for (const absl::Duration delay : {absl::Milliseconds(1), absl::Seconds(61)}) {
    EXPECT_EQ(RetryDelayOf(FromGrpcStatus(ToGrpcStatus(TooMuch("later", delay)))), delay);
  }
}

TEST(StatusMap, TextsArePrintableAsciiOnOneLine) {
  EXPECT_EQ(CleanErrorText(std::string("a\0b\r\nc\x1b[0m\xc3\xa9\x7f", 13)), "a?b? c?[0m???");
}

TEST(StatusMap, TextsAreCutAtTheLimit) {
  EXPECT_EQ(CleanErrorText(std::string(kErrorTextBytesMax, 'x')).size(), kErrorTextBytesMax);
  const std::string cut = CleanErrorText(std::string(kErrorTextBytesMax + 1, 'x'));
  EXPECT_EQ(cut.size(), kErrorTextBytesMax);
  EXPECT_EQ(cut.substr(cut.size() - 4), "x...");
}

TEST(StatusMap, FilesOfTheHostDoNotTravel) {
  EXPECT_EQ(CleanErrorText("cannot open '/srv/lorica/a.json': denied"),
            "cannot open '<path>': denied");
  EXPECT_EQ(CleanErrorText("/var/x/y: no space"), "<path>: no space");
  EXPECT_EQ(CleanErrorText("adapter team/name is 3/4 done / so far"),
            "adapter team/name is 3/4 done / so far");
}

}  // namespace
}  // namespace lorica
