#include "adapters/disk_origins.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_join.h"

namespace lorica {
namespace {

using Json = nlohmann::json;

constexpr const char* kTexts[] = {"server", "repo", "revision", "access", "commit"};

std::string* TextOf(RemoteOrigin& origin, int index) {
  std::string* const texts[] = {&origin.server, &origin.repo, &origin.revision, &origin.access,
                                &origin.commit};
  return texts[index];
}

bool Read(const Json& entry, DatedOrigin& dated) {
  if (!entry.is_object()) return false;
  for (size_t i = 0; i < std::size(kTexts); ++i) {
    const auto text = entry.find(kTexts[i]);
    if (text == entry.end() || !text->is_string()) return false;
    *TextOf(dated.origin, static_cast<int>(i)) = text->get<std::string>();
  }
  const auto found = entry.find("found_ms");
  if (found == entry.end() || !found->is_number_integer()) return false;
  dated.found = absl::FromUnixMillis(found->get<int64_t>());
  return true;
}

}  // namespace

// None of the parts can hold a line feed.
std::string OriginKey(const RemoteOrigin& origin) {
  return absl::StrJoin({origin.server, origin.repo, origin.revision, origin.access}, "\n");
}

std::string WriteDiskOrigins(const std::vector<DatedOrigin>& origins) {
  Json list = Json::array();
  for (DatedOrigin dated : origins) {
    Json entry = {{"found_ms", absl::ToUnixMillis(dated.found)}};
    for (size_t i = 0; i < std::size(kTexts); ++i) {
      entry[kTexts[i]] = *TextOf(dated.origin, static_cast<int>(i));
    }
    list.push_back(std::move(entry));
  }
  return Json{{"origins", list}}.dump(1) + "\n";
}

absl::StatusOr<std::vector<DatedOrigin>> ParseDiskOrigins(std::string_view json) {
  const absl::Status wrong = absl::FailedPreconditionError("origins.json cannot be read");
  const Json whole = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!whole.is_object() || !whole.contains("origins") || !whole["origins"].is_array()) {
    return wrong;
  }
  std::vector<DatedOrigin> origins;
  for (const Json& entry : whole["origins"]) {
    DatedOrigin dated;
    if (origins.size() == kOriginsMax || !Read(entry, dated)) return wrong;
    origins.push_back(std::move(dated));
  }
  return origins;
}

}  // namespace lorica
