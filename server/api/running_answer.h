// An answer while it runs: tokens come in on the engine's thread, text goes out on the
// reader's.
//
// The engine's side only enqueues. Detokenising and stop strings are the reader's work,
// inside Take; a stop string found there ends the request, and tokens that the engine
// made in the meantime are neither delivered nor counted. Thread-safe; one reader at a
// time makes sense. `control` outlives it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "server/api/accounts.h"
#include "server/api/gateway.h"
#include "server/engine/request.h"
#include "server/text/detokenizer.h"

namespace lorica {

// What an answer asks of the engine. Must not call back into the answer.
class RequestControl {
 public:
  virtual ~RequestControl() = default;
  virtual void Cancel(RequestId id) = 0;
  virtual void Finish(RequestId id, StopReason reason) = 0;
  virtual void Pause(RequestId id) = 0;
  virtual void Resume(RequestId id) = 0;
};

struct AnswerOptions {
  const Tokenizer* tokenizer = nullptr;  // null: the answer has no text
  bool skip_special_tokens = true;
  std::vector<std::string> stop;
  bool include_stop = false;             // the stop string that ends it is part of the text
  absl::flat_hash_set<int32_t> end_ids;  // tokens that end it and are not part of the text
  int32_t max_tokens = 0;                // 0: not known
  bool prompt_alone = false;             // what comes after the prompt is nobody's
  std::shared_ptr<Charge> charge;        // null: nobody pays
};

class RunningAnswer final : public Answer, public TokenSink {
 public:
  RunningAnswer(AnswerOptions options, RequestControl* control);
  // What nobody took to its end is billed as the engine told it.
  ~RunningAnswer() override;
  // What it is made with. REQUIRES: before it is admitted.
  void SetAdapters(std::vector<AdapterUse> adapters);
  // The engine took it under this id.
  void Admitted(RequestId id);
  // It ends without having been admitted. False: it had ended already.
  bool Refuse(const absl::Status& status);

  void OnTokens(const TokenEvent& event) override;
  void OnFinish(const FinishEvent& event) override;

  bool Take(AnswerChunk* chunk, std::optional<AnswerEnd>* end) override;
  void NotifyWhenReady(std::function<void()> ready) override;
  void NotifyWhenStalled(std::function<void()> stalled) override;
  void Cancel() override;

  // Ends it when something has waited since an earlier call that is kSlowReaderLimit ago.
  void CheckStalled(absl::Time now);
  bool finished() const;  // nothing more comes in
  bool ended() const;     // the end was taken

 private:
  using Token = TokenEvent::Token;

  bool TakeFinish(const FinishEvent& event, bool refused) ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasSomething() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::function<void()> TakeReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Append(Token token, AnswerChunk* chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(reader_mutex_);
  void AppendText(const std::string& text, AnswerChunk* chunk)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(reader_mutex_);
  void Flush(AnswerChunk* chunk) ABSL_EXCLUSIVE_LOCKS_REQUIRED(reader_mutex_);
  void Bill(const FinishEvent& finish, int32_t completion_tokens) const;
  AnswerEnd MakeEnd(const FinishEvent& finish) ABSL_EXCLUSIVE_LOCKS_REQUIRED(reader_mutex_);
  void FoundStop() ABSL_LOCKS_EXCLUDED(mutex_);

  RequestControl* const control_;
  const absl::flat_hash_set<int32_t> end_ids_;
  const std::shared_ptr<Charge> charge_;
  const bool include_stop_;
  const int32_t max_tokens_;
  const bool prompt_alone_;

  // The reader's side. Locked before mutex_.
  absl::Mutex reader_mutex_;
  std::unique_ptr<Detokenizer> detokenizer_ ABSL_GUARDED_BY(reader_mutex_);
  StopMatcher stop_ ABSL_GUARDED_BY(reader_mutex_);
  int32_t delivered_tokens_ ABSL_GUARDED_BY(reader_mutex_) = 0;

  mutable absl::Mutex mutex_;
  std::vector<AdapterUse> adapters_ ABSL_GUARDED_BY(mutex_);
  RequestId id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool admitted_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;  // before it was admitted
  std::vector<Token> pending_ ABSL_GUARDED_BY(mutex_);
  std::vector<Token> prompt_ ABSL_GUARDED_BY(mutex_);  // until it is taken
  std::optional<FinishEvent> finish_ ABSL_GUARDED_BY(mutex_);
  bool refused_ ABSL_GUARDED_BY(mutex_) = false;  // the finish is of Refuse
  std::function<void()> ready_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> stalled_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Time> waiting_since_ ABSL_GUARDED_BY(mutex_);
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_found_ ABSL_GUARDED_BY(mutex_) = false;
  bool too_slow_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace lorica
