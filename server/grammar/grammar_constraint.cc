#include "server/grammar/grammar_constraint.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace lorica {
namespace {

constexpr int32_t kNoToken = -1;

absl::Duration ThreadCpu() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

}  // namespace

bool MaskThreads::Run(const std::string& whose, std::function<void()> work) {
  absl::MutexLock lock(&mutex_);
  if (threads_ == nullptr) return false;
  threads_->Run(whose, [work = std::move(work)](int) { work(); });
  return true;
}

void MaskThreads::Stop() {
  std::unique_ptr<WorkThreads> threads;  // ends when the lock has been given back
  absl::MutexLock lock(&mutex_);
  threads.swap(threads_);
}

void MaskThreads::Count(absl::Duration took, bool slow) {
  absl::MutexLock lock(&mutex_);
  ++stats_.masks;
  stats_.slow += slow;
  stats_.time += took;
}

MaskThreads::Stats MaskThreads::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

GrammarConstraint::GrammarConstraint(std::shared_ptr<MaskThreads> threads, std::string tenant,
                                     int mask_words, absl::Duration mask_cpu,
                                     std::function<void()> wake,
                                     absl::Status (*explain)(const absl::Status&))
    : threads_(std::move(threads)),
      tenant_(std::move(tenant)),
      mask_cpu_(mask_cpu),
      wake_(std::move(wake)),
      explain_(explain),
      next_(mask_words),
      mask_(mask_words) {}

void GrammarConstraint::Begin(const absl::StatusOr<std::shared_ptr<const Grammar>>& made) {
  if (!made.ok()) return Fail(made.status());
  grammar_ = *made;
  if (grammar_->slow()) return Fail(TooSlow());
  Start(kNoToken);
}

void GrammarConstraint::Start(int32_t token) {
  const bool runs =
      threads_->Run(tenant_, [self = shared_from_this(), token] { self->MakeMask(token); });
  if (!runs) Fail(absl::UnavailableError("the server is shutting down"));
}

void GrammarConstraint::MakeMask(int32_t token) {
  const absl::Duration began = ThreadCpu();
  absl::Status status = Advance(token);
  const absl::Duration took = ThreadCpu() - began;
  const bool slow = took > mask_cpu_;
  threads_->Count(took, slow);
  if (slow) grammar_->MarkSlow();
  if (status.ok() && slow) status = TooSlow();
  if (!status.ok()) return Fail(status);
  bool missed = false;
  {
    absl::MutexLock lock(&mutex_);
    mask_.swap(next_);
    ready_ = true;
    missed = std::exchange(missed_, false);
  }
  if (missed) wake_();
}

absl::Status GrammarConstraint::TooSlow() const {
  return absl::InvalidArgumentError(absl::StrCat(
      "takes more than ", absl::FormatDuration(mask_cpu_), " for one token; make it simpler"));
}

absl::Status GrammarConstraint::Advance(int32_t token) {
  if (walk_ == nullptr) walk_ = GrammarMaker::Walk(grammar_);
  if (token != kNoToken) {
    absl::Status accepted = walk_->Accept(token);
    if (!accepted.ok()) return accepted;
  }
  return walk_->FillMask(absl::MakeSpan(next_));
}

void GrammarConstraint::Fail(const absl::Status& status) {
  bool missed = false;
  {
    absl::MutexLock lock(&mutex_);
    failure_ = explain_(status);
    missed = std::exchange(missed_, false);
  }
  if (missed) wake_();
}

absl::StatusOr<bool> GrammarConstraint::Ready() {
  absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  missed_ |= !ready_;
  return ready_;
}

void GrammarConstraint::Accept(int32_t token) {
  {
    absl::MutexLock lock(&mutex_);
    LORICA_CHECK(Settled(), "a token before its mask", token);
    ready_ = false;
  }
  Start(token);
}

absl::StatusOr<bool> GrammarConstraint::TakeMask(absl::Duration patience,
                                                 absl::Span<int32_t> mask) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(this, &GrammarConstraint::Settled), patience);
  if (!failure_.ok()) return failure_;
  missed_ |= !ready_;
  if (!ready_) return false;
  LORICA_CHECK(mask.size() == mask_.size(), mask.size(), mask_.size());
  std::copy(mask_.begin(), mask_.end(), mask.begin());
  return true;
}

}  // namespace lorica
