// The body of a download that may come in several pieces: counted, hashed, resumed. Of a part of a
// file no hash is known.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapters/hub/http_client.h"
#include "adapters/hub/remote_source.h"

namespace lorica {

class VerifiedBody : public HttpBody {
 public:
  // Both outlive it. `part`: all of the file, or what is wanted of it.
  VerifiedBody(const RemoteFile& file, ByteRange part, DownloadSink& sink);

  // Takes over what the sink has from an earlier process, where a hash will tell whether it fits.
  // First of all.
  absl::Status Resume();
  // What to ask with, so that only what is missing comes.
  std::vector<std::pair<std::string, std::string>> ResumeHeaders() const;
  // Aborted: what comes does not continue what is here; Restart and ask for all of it.
  absl::Status Begin(const HttpClientReply& reply) override;
  absl::Status Write(std::string_view bytes) override;
  // A server that knows no ranges sends the whole file.
  bool Enough() const override { return is_part_ && size_bytes_ == part_bytes(); }
  absl::Status Restart();
  // Once no more comes. Unavailable: bytes are missing. DataLoss: they are others.
  absl::Status Finish();
  int64_t size_bytes() const { return size_bytes_; }

 private:
  static Hasher HasherFor(const RemoteFile& file);
  int64_t part_bytes() const { return part_.end - part_.begin; }

  const RemoteFile& file_;
  const ByteRange part_;
  const bool is_part_;
  DownloadSink& sink_;
  Hasher hasher_;
  int64_t size_bytes_ = 0;
  int64_t skip_bytes_ = 0;  // of what comes now: they are before the part
  std::string entity_tag_;  // of the server that the first piece came from; empty: not known
};

}  // namespace lorica
