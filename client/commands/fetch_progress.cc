#include "client/commands/fetch_progress.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "client/commands/terminal.h"
#include "client/steady_time.h"

namespace lorica {
namespace {

constexpr absl::Duration kLookInterval = absl::Milliseconds(250);
constexpr absl::Duration kLookTimeout = absl::Seconds(5);
// A rate of less time than this says nothing.
constexpr absl::Duration kRateTime = absl::Seconds(1);

// What is known of a fetch by now.
using Look = std::function<FetchProgress()>;

void Draw(const std::string& label, const std::string& what, const Look& look,
          absl::Notification& done) {
  ProgressBar bar(label);
  FetchProgress progress;
  const absl::Time began = SteadyTime();
  while (true) {
    const std::string note = progress.note();
    const double waited = absl::ToDoubleSeconds(SteadyTime() - began);
    bar.Update(progress.fraction(),
               absl::StrCat(Printable(what), "  ", note.empty() ? HumanDuration(waited) : note));
    if (done.WaitForNotificationWithTimeout(kLookInterval)) return;
    progress = look();
  }
}

void WhileDrawing(const std::string& label, const std::string& what, const Look& look,
                  const std::function<void()>& call) {
  absl::Notification done;
  std::thread drawing([&] { Draw(label, what, look, done); });
  call();
  done.Notify();
  drawing.join();
}

}  // namespace

void FetchProgress::Saw(int64_t bytes, int64_t total, absl::Time now) {
  if (total != total_ || bytes < bytes_) {  // another one, or it begins again
    first_bytes_ = bytes;
    first_ = now;
  }
  bytes_ = bytes;
  total_ = total;
  last_ = now;
}

double FetchProgress::fraction() const {
  return total_ > 0 ? static_cast<double>(bytes_) / static_cast<double>(total_) : -1.0;
}

std::string FetchProgress::note() const {
  if (total_ <= 0) return "";
  std::string note = absl::StrCat(HumanBytes(bytes_), " of ", HumanBytes(total_));
  const absl::Duration took = last_ - first_;
  if (took < kRateTime || bytes_ <= first_bytes_) return note;
  const double rate = static_cast<double>(bytes_ - first_bytes_) / absl::ToDoubleSeconds(took);
  absl::StrAppend(&note, ", ", HumanBytes(static_cast<int64_t>(rate)), "/s, ",
                  HumanDuration(static_cast<double>(total_ - bytes_) / rate), " left");
  return note;
}

void WithFetchProgress(const CommandContext& context, const std::string& label,
                       const Fetched& fetched, const std::function<void()>& call) {
  if (!IsTerminal(stderr)) return call();
  const auto client = context.MakeClient();
  v1::GetAdapterRequest request;
  request.set_adapter_id(fetched.place);
  request.set_hub_token(fetched.hub_token);
  CallOptions options = context.Call();
  options.timeout = std::min(options.timeout, kLookTimeout);
  FetchProgress progress;
  const Look look = [&] {
    const auto seen = client->GetAdapter(request, options);
    if (seen.ok()) {
      progress.Saw(seen->adapter().fetched_bytes(), seen->adapter().fetch_bytes_total(),
                   SteadyTime());
    }
    return progress;
  };
  WhileDrawing(label, fetched.place, look, call);
}

void WithWaiting(const std::string& label, const std::string& what,
                 const std::function<void()>& call) {
  if (!IsTerminal(stderr)) return call();
  WhileDrawing(
      label, what, [] { return FetchProgress(); }, call);
}

}  // namespace lorica
