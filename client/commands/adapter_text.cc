#include "client/commands/adapter_text.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/commands/json_mapping.h"
#include "client/commands/terminal.h"

namespace lorica {
namespace {

constexpr size_t kShortDigest = 8;

// An enum field by its lower-case name; empty when unspecified.
std::string Word(const v1::Adapter& adapter, const char* field) {
  const Json value = MessageToJson(adapter)[field];
  return value.is_string() ? value.get<std::string>() : "";
}

std::string Digest(const v1::Adapter& adapter) { return ShortGeneration(adapter.generation()); }

std::string Where(const v1::Adapter& adapter) {
  if (adapter.state() == v1::ADAPTER_STATE_LOADING) return "loading";
  if (adapter.state() == v1::ADAPTER_STATE_FAILED) return "failed";
  return Word(adapter, "tier");
}

std::string Rank(const v1::Adapter& adapter) {
  if (adapter.rank_max() == 0) return "";
  return absl::StrCat(adapter.rank_max(), adapter.dora() ? " dora" : "");
}

// Of figures that the server tells operators alone.
constexpr char kNotTold[] = "-";

std::string Streams(const v1::Adapter& adapter) {
  return adapter.has_lease_count() ? HumanCount(adapter.lease_count()) : kNotTold;
}

std::string Hits(const v1::Adapter& adapter) {
  return adapter.has_hit_count() ? HumanCount(adapter.hit_count()) : kNotTold;
}

std::string Loads(const v1::Adapter& adapter) {
  return adapter.has_load_count() ? HumanCount(adapter.load_count()) : kNotTold;
}

std::string LastUsed(const v1::Adapter& adapter) {
  if (!adapter.has_last_used_seconds_ago()) return kNotTold;
  const double ago = adapter.last_used_seconds_ago();
  return ago < 0 ? "never" : absl::StrCat(HumanDuration(ago), " ago");
}

std::string Bytes(int64_t bytes) { return bytes == 0 ? "" : HumanBytes(bytes); }

std::string Range(double low, double high) {
  const std::string first = absl::StrCat(low);
  const std::string last = absl::StrCat(high);
  return first == last ? first : absl::StrCat(first, "–", last);
}

void Row(const std::string& label, const std::string& value, FILE* stream, std::string* text) {
  if (value.empty()) return;
  absl::StrAppend(text, Paint(Ink::kBold, label, stream), std::string(14 - label.size(), ' '),
                  Printable(value), "\n");
}

}  // namespace

std::string ShortGeneration(const std::string& generation) {
  return generation.substr(0, kShortDigest);
}

std::string AdapterTable(const std::vector<v1::Adapter>& adapters, FILE* stream) {
  Table table({"adapter", "generation", "where", "pinned", ">rank", ">device", ">streams", ">hits",
               ">loads", ">last used"});
  for (const v1::Adapter& adapter : adapters) {
    const std::string alias = adapter.alias_of().empty() ? "" : " = " + adapter.alias_of();
    table.AddRow({Printable(adapter.adapter_id() + alias), Digest(adapter), Where(adapter),
                  Word(adapter, "pinned"), Rank(adapter), Bytes(adapter.device_bytes()),
                  Streams(adapter), Hits(adapter), Loads(adapter), LastUsed(adapter)});
  }
  return table.ToString(stream);
}

std::string AdapterLine(const v1::Adapter& adapter) {
  std::string line = Printable(adapter.adapter_id());
  if (!adapter.generation().empty()) absl::StrAppend(&line, "@", Digest(adapter));
  if (!adapter.alias_of().empty()) absl::StrAppend(&line, " = ", Printable(adapter.alias_of()));
  const std::string where = Where(adapter);
  if (!where.empty()) absl::StrAppend(&line, " ", where);
  if (adapter.pinned() != v1::TIER_UNSPECIFIED) {
    absl::StrAppend(&line, ", pinned on ", Word(adapter, "pinned"));
  }
  if (adapter.rank_max() > 0) absl::StrAppend(&line, ", rank ", Rank(adapter));
  if (adapter.device_bytes() > 0) {
    absl::StrAppend(&line, ", ", HumanBytes(adapter.device_bytes()), " on device");
  }
  if (adapter.fetch_bytes_total() > 0) {
    absl::StrAppend(&line, ", ", HumanBytes(adapter.fetched_bytes()), " of ",
                    HumanBytes(adapter.fetch_bytes_total()), " fetched");
  }
  if (!adapter.error().empty()) absl::StrAppend(&line, ": ", Printable(adapter.error()));
  return line;
}

std::string EventText(const v1::WatchAdaptersResponse& event) {
  const std::string now = absl::FormatTime("%H:%M:%S", absl::Now(), absl::LocalTimeZone());
  std::string text;
  for (const v1::Adapter& adapter : event.adapters()) {
    absl::StrAppend(&text, now, "  ", AdapterLine(adapter), "\n");
  }
  for (const std::string& id : event.removed_ids()) {
    absl::StrAppend(&text, now, "  ", Printable(id), " removed\n");
  }
  return text;
}

std::string AdapterDetails(const v1::Adapter& adapter, FILE* stream) {
  std::string text;
  Row("adapter", adapter.adapter_id(), stream, &text);
  Row("generation", adapter.generation(), stream, &text);
  Row("source", adapter.source(), stream, &text);
  Row("commit", adapter.commit(), stream, &text);
  Row("alias of", adapter.alias_of(), stream, &text);
  Row("where", Where(adapter), stream, &text);
  Row("error", adapter.error(), stream, &text);
  Row("pinned", Word(adapter, "pinned"), stream, &text);
  Row("rank", Rank(adapter), stream, &text);
  Row("modules", adapter.module_count() == 0 ? "" : HumanCount(adapter.module_count()), stream,
      &text);
  Row("file", Bytes(adapter.file_bytes()), stream, &text);
  Row("device", Bytes(adapter.device_bytes()), stream, &text);
  Row("streams", Streams(adapter), stream, &text);
  Row("hits", Hits(adapter), stream, &text);
  Row("loads", Loads(adapter), stream, &text);
  Row("last load", adapter.last_load_ms() == 0 ? "" : HumanDuration(adapter.last_load_ms() / 1000),
      stream, &text);
  Row("last used", LastUsed(adapter), stream, &text);
  return text;
}

std::string HistoryText(const v1::GetAdapterResponse& response, FILE* stream) {
  if (response.history().empty()) return "";
  Table table({"", ">number", "generation", "source", "registered"});
  for (const v1::RegisteredGeneration& one : response.history()) {
    const absl::Time when = absl::FromUnixMillis(one.registered_unix_ms());
    table.AddRow({one.current() ? "*" : "", absl::StrCat(one.number()),
                  ShortGeneration(one.generation()), Printable(one.source()),
                  absl::FormatTime("%Y-%m-%d %H:%M:%S", when, absl::LocalTimeZone())});
  }
  return table.ToString(stream);
}

std::string CheckText(const std::string& source, const v1::CheckAdapterResponse& check,
                      FILE* stream) {
  std::string text = absl::StrCat(
      Printable(source), ": ",
      check.servable()
          ? Paint(Ink::kGreen, "can be served", stream)
          : absl::StrCat(Paint(Ink::kRed, "cannot be served: ", stream), Printable(check.reason())),
      "\n");
  for (const std::string& warning : check.warnings()) {
    absl::StrAppend(&text, Paint(Ink::kYellow, "warning: ", stream), Printable(warning), "\n");
  }
  if (check.modules().empty()) return text;
  Table table({"module", ">layers", ">rank", ">alpha / rank = scale"});
  for (const v1::CheckedModule& module : check.modules()) {
    table.AddRow(
        {Printable(module.name()), absl::StrCat(module.layers()),
         Range(module.rank_min(), module.rank_max()),
         absl::StrCat(Range(module.alpha_min(), module.alpha_max()), " / ",
                      check.rslora() ? "√" : "", Range(module.rank_min(), module.rank_max()), " = ",
                      Range(module.scale_min(), module.scale_max()))});
  }
  absl::StrAppend(&text, table.ToString(stream));
  absl::StrAppend(&text, HumanBytes(check.exact_tile_bytes()), " of tiles in ",
                  HumanCount(check.blocks()), " blocks of ", HumanBytes(check.block_bytes()), " = ",
                  HumanBytes(int64_t{check.blocks()} * check.block_bytes()), " on the device\n");
  return text;
}

}  // namespace lorica
