// Adapters as plain objects: in a bucket of S3 or of what speaks its protocol, or beneath a
// folder of a web server.
//
// A location is "s3://bucket/prefix/name" or "https://host/path/name", beneath which the files
// lie. It is named by whoever may register adapters, never by a request. There are no commits:
// the first look asks for the entity tags of both files of an adapter, and what is downloaded
// later is exactly that, or an error. Nothing is redirected. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "adapters/hub/http_client.h"
#include "adapters/hub/remote_source.h"
#include "adapters/hub/retry_pause.h"

namespace lorica {

inline constexpr int kLocationBytesMax = 1024;

// "s3://bucket/a/b" or "https://host/a/b" (http:// on this machine alone): every part of
// letters, digits and "._=+-", none of them "." or "..".
bool IsObjectLocation(std::string_view text);

struct ObjectOptions {
  HttpClientOptions http;
  RetryPauses retry;
};

struct S3Options {
  std::string endpoint;  // empty: Amazon's own of that region
  std::string region = "us-east-1";
  // As in ~/.aws/credentials, its profile [default]; read for each session. Empty: requests
  // are not signed, which public buckets allow.
  std::string credentials_file;
  ObjectOptions object;
};

// InvalidArgument: the endpoint is none, or is not https though another machine's.
// FailedPrecondition: the file of credentials.
absl::StatusOr<std::unique_ptr<RemoteSource>> MakeS3Source(S3Options options);

// Web servers, each location on its own.
std::unique_ptr<RemoteSource> MakeMirrorSource(ObjectOptions options);

// FailedPrecondition: it cannot be read, or has no complete profile [default]; the text never
// quotes it.
absl::StatusOr<AwsKeys> ReadAwsKeys(const std::string& path);

}  // namespace lorica
