#include "server/warm_up.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "adapters/hub/steady_now.h"

namespace lorica {

absl::Status WarmUp(Gateway& gateway, int32_t token) {
  GenerateCall call;
  call.token_ids = {std::max(0, token)};
  call.max_tokens = static_cast<int32_t>(std::min<int64_t>(2, gateway.limits().context_tokens - 1));
  call.ignore_eos = true;
  call.deadline = SteadyNow() + kWarmUpLimit;
  auto answer = gateway.GenerateFor(std::make_shared<const Tenant>(Tenant{.name = ""}), call);
  if (!answer.ok()) return answer.status();
  std::optional<AnswerEnd> end;
  while (!end) {
    absl::Notification ready;
    (*answer)->NotifyWhenReady([&ready] { ready.Notify(); });
    ready.WaitForNotification();
    AnswerChunk chunk;
    (*answer)->Take(&chunk, &end);
  }
  if (end->status.ok()) return absl::OkStatus();
  return absl::Status(end->status.code(),
                      absl::StrCat("the first generation failed: ", end->status.message()));
}

}  // namespace lorica
