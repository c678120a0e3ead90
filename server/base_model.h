// A base model that is fetched from the hub before the server starts.
//
//   DATA_DIR/models/ORG--NAME/COMMIT/   its files, each verified before it gets its name
//   DATA_DIR/models/ORG--NAME/refs/     which commit a revision meant at the last look
//
// Configuration, tokenizer and safetensors are fetched, or the one GGUF file that is named, and no
// pickle ever. What is complete is not fetched again, and is served as it is where the hub does not
// give it any more. What the operator's Hugging Face cache holds is read there. Commits that no
// revision means any more are deleted. Blocks for as long as it takes.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/hub/remote_source.h"

namespace lorica {

struct BaseModelName {
  std::string repo;  // "org/name"
  std::string revision = "main";
  std::string file;  // "model.gguf"; empty: the repository's folder of safetensors
};
// What --model means when it is no path on this machine; nullopt: no repository's name.
std::optional<BaseModelName> ParseBaseModelName(const std::string& model);

struct BaseModelOptions {
  std::string folder;    // DATA_DIR/models
  bool offline = false;  // what is complete here is all there is
  std::string hf_cache;  // a Hugging Face cache to read from first; empty: none
};

// The folder or the file that it is. FailedPrecondition: the repository holds no model that is
// served, or the disk has no room. Otherwise as RemoteSession.
absl::StatusOr<std::string> FetchBaseModel(const BaseModelName& name,
                                           const BaseModelOptions& options, RemoteSource& hub);

}  // namespace lorica
