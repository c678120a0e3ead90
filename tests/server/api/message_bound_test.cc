// What is said of a message whose frame is none, on a whole server.
#include "server/api/message_bound.h"

#include "gmock/gmock.h"
#include "tests/fakes/raw_http2.h"
#include "tests/server/api/tiny_server.h"

namespace lorica {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const absl::Duration kAnswerTime = kInstrumentationFactor * absl::Seconds(10);
constexpr char kNoFlag[] = "first byte of the message's frame is neither 0 nor 1";

// A message whose compressed-flag is `flag`, in frames of DATA that end after `first` bytes and
// after all.
std::string MessageWith(uint8_t flag, uint32_t stream, const std::string& message, size_t first) {
  const std::string bytes =
      std::string(1, static_cast<char>(flag)) + BigEndian(message.size(), 4) + message;
  return Frame(FrameType::kData, 0, stream, bytes.substr(0, first)) +
         Frame(FrameType::kData, kEndStream, stream, bytes.substr(std::min(first, bytes.size())));
}

TEST(MessageBound, AFrameWhoseFlagIsNoneEndsItsCallAlone) {
  TinyServer server;
  const std::string message = TokensRequest(1).SerializeAsString();
  for (const char* method :
       {"/lorica.v1.InferenceService/Generate", "/lorica.v1.InferenceService/GenerateStream",
        "/lorica.v1.ServerService/GetStatus", "/grpc.health.v1.Health/Check"}) {
    for (const uint8_t flag : {2, 3, 128, 255}) {
      for (const size_t first : {0, 1, 4, 5, 7}) {
        RawConnection connection(server.server().port());
        connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") + CallHeaders(1, method) +
                        MessageWith(flag, 1, message, first));
        EXPECT_TRUE(connection.WaitFor(kNoFlag, kAnswerTime)) << method << " " << int{flag};
        connection.Send(CallHeaders(3, "/lorica.v1.ServerService/GetStatus") +
                        MessageWith(0, 3, "", first));
        EXPECT_TRUE(connection.WaitFor("llama", kAnswerTime)) << "the next one is answered";
      }
    }
  }
}

// A request for status is one whose bytes are none, so whoever does not look at the flag answers.
TEST(MessageBound, WhatIsCompressedIsRefusedWhateverItsEncoding) {
  TinyServer server;
  constexpr char kEncoding[] = "grpc-encoding";
  const std::vector<RawHeaders> all = {
      {}, {{kEncoding, "identity"}}, {{kEncoding, "rot13"}}, {{kEncoding, "gzip"}}};
  for (const RawHeaders& headers : all) {
    for (const std::string message : {"", "\x7a\1x"}) {
      RawConnection connection(server.server().port());
      connection.Send(Preface() + Frame(FrameType::kSettings, 1, 0, "") +
                      CallHeaders(1, "/lorica.v1.ServerService/GetStatus", headers) +
                      MessageWith(1, 1, message, 5));
      const std::string unimplemented(
          "grpc-status\2"
          "12");
      EXPECT_TRUE(connection.WaitFor(unimplemented, kAnswerTime)) << connection.heard();
      EXPECT_THAT(connection.heard(), Not(HasSubstr("llama")));
      EXPECT_THAT(connection.heard(), Not(HasSubstr(kNoFlag)));
      connection.Send(CallHeaders(3, "/lorica.v1.ServerService/GetStatus", headers) +
                      MessageWith(0, 3, message, 5));
      const bool is_known = headers == all.back();
      EXPECT_EQ(connection.WaitFor("llama", is_known ? absl::Seconds(1) : kAnswerTime), !is_known)
          << "one that is not compressed is answered";
    }
  }
}

}  // namespace
}  // namespace lorica
