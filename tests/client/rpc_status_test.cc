#include "client/rpc_status.h"

#include <gtest/gtest.h>

#include "tests/fakes/fake_server.h"

namespace lorica {
namespace {

TEST(ToAbslStatus, KeepsCodeAndMessage) {
  const absl::Status status = ToAbslStatus(grpc::Status(grpc::NOT_FOUND, "no adapter x"));
  EXPECT_EQ(status, absl::NotFoundError("no adapter x"));
  EXPECT_TRUE(ToAbslStatus(grpc::Status::OK).ok());
}

TEST(ToAbslStatus, AddsTheFieldsAtFault) {
  const absl::Status status =
      ToAbslStatus(BadRequestStatus("bad request", {{"top_p", "must be above 0"}}));
  EXPECT_EQ(status.message(), "bad request (top_p: must be above 0)");
}

TEST(ToAbslStatus, DoesNotSayTheSameTwice) {
  const absl::Status status =
      ToAbslStatus(BadRequestStatus("top_p must be above 0", {{"top_p", "must be above 0"}}));
  EXPECT_EQ(status.message(), "top_p must be above 0");
}

TEST(ToAbslStatus, SurvivesDetailsThatAreNoProtobuf) {
  const absl::Status status = ToAbslStatus(grpc::Status(grpc::INTERNAL, "bug", "\xFF\xFF\xFF"));
  EXPECT_EQ(status, absl::InternalError("bug"));
}

TEST(RetryInfoDelay, ReadsTheDetailBack) {
  const absl::Status status = ToAbslStatus(RetryLaterStatus("busy", absl::Milliseconds(250)));
  EXPECT_EQ(RetryInfoDelay(status), absl::Milliseconds(250));
  EXPECT_FALSE(RetryInfoDelay(absl::UnavailableError("busy")).has_value());
}

TEST(BackoffDelay, DoublesUpToTheMaximum) {
  const absl::Duration initial = absl::Milliseconds(100);
  const absl::Duration most = absl::Seconds(1);
  EXPECT_EQ(BackoffDelay(1, initial, most, 0), absl::Milliseconds(100));
  EXPECT_EQ(BackoffDelay(2, initial, most, 0), absl::Milliseconds(200));
  EXPECT_EQ(BackoffDelay(4, initial, most, 0), absl::Milliseconds(800));
  EXPECT_EQ(BackoffDelay(5, initial, most, 0), most);
  EXPECT_EQ(BackoffDelay(1000, initial, most, 0), most);
  EXPECT_EQ(BackoffDelay(1, initial, most, -0.2), absl::Milliseconds(80));
}

}  // namespace
}  // namespace lorica
