#include "server/api/message_turns.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/hub/steady_now.h"
#include "server/api/field_error.h"

namespace lorica {
namespace {

int PartOf(int limit, int parts) { return std::max(1, limit / std::max(1, parts)); }

absl::Status TooManyWait() {
  return TryLater("too many calls wait for their message to be read; try again");
}

}  // namespace

MessageTurns::MessageTurns(const MessageTurnsLimits& limits)
    : limits_(limits),
      lane_reading_max_(PartOf(limits.reading_max, limits.lane_parts)),
      lane_waiting_max_(PartOf(limits.waiting_max, limits.lane_parts)) {}

absl::Status MessageTurns::Enter(Turn* turn, const std::string& lane_name) {
  Turns next;
  Turn* displaced = nullptr;
  bool watch = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = lanes_.find(lane_name);
    const int of_lane =
        found == lanes_.end() ? 0 : static_cast<int>(found->second.waiting.size());
    if (of_lane >= lane_waiting_max_) return TooManyWait();
    if (waiting_ >= limits_.waiting_max) {
      displaced = Displaced(of_lane);
      if (displaced == nullptr) return TooManyWait();
      StopWaiting(displaced);
    }
    Lane& lane = lanes_[lane_name];
    lane.name = lane_name;
    turn->lane_ = &lane;
    turn->number_ = ++entered_;
    turn->state_ = Turn::State::kWaiting;
    turn->self_ = lane.waiting.insert(lane.waiting.end(), turn);
    ++waiting_;
    next = Next();
    watch = !std::exchange(watched_, true);
  }
  if (watch) later_.Run(limits_.crowded_time, [this] { Look(); });
  if (displaced != nullptr) displaced->TurnAway(TooManyWait());
  StartAll(next);
  return absl::OkStatus();
}

bool MessageTurns::Leave(Turn* turn) {
  Turns next;
  bool stayed = false;
  {
    absl::MutexLock lock(&mutex_);
    stayed = turn->state_ == Turn::State::kReading;
    reading_.erase(turn->self_);
    --turn->lane_->reading;
    Forget(turn);
    next = Next();
  }
  StartAll(next);
  return stayed;
}

bool MessageTurns::GiveUp(Turn* turn) {
  absl::MutexLock lock(&mutex_);
  if (turn->state_ != Turn::State::kWaiting) return false;
  StopWaiting(turn);
  return true;
}

void MessageTurns::StopWaiting(Turn* turn) {
  turn->lane_->waiting.erase(turn->self_);
  --waiting_;
  Forget(turn);
}

void MessageTurns::Forget(Turn* turn) {
  turn->state_ = Turn::State::kOutside;
  const Lane& lane = *std::exchange(turn->lane_, nullptr);
  if (lane.reading == 0 && lane.waiting.empty()) lanes_.erase(lanes_.find(lane.name));
}

MessageTurns::Turn* MessageTurns::Displaced(int of_lane) {
  size_t most = of_lane + 1;
  Turn* displaced = nullptr;
  for (const auto& [name, lane] : lanes_) {
    if (lane.waiting.size() <= most) continue;
    most = lane.waiting.size();
    displaced = lane.waiting.back();
  }
  return displaced;
}

MessageTurns::Turn* MessageTurns::Chosen() {
  if (waiting_ == 0 || static_cast<int>(reading_.size()) >= limits_.reading_max) return nullptr;
  Turn* chosen = nullptr;
  for (const auto& [name, lane] : lanes_) {
    if (lane.waiting.empty() || lane.reading >= lane_reading_max_) continue;
    Turn* const first = lane.waiting.front();
    if (chosen == nullptr || std::pair(lane.reading, first->number_) <
                                 std::pair(chosen->lane_->reading, chosen->number_)) {
      chosen = first;
    }
  }
  return chosen;
}

MessageTurns::Turns MessageTurns::Next() {
  Turns next;
  while (Turn* const turn = Chosen()) {
    reading_.splice(reading_.end(), turn->lane_->waiting, turn->self_);
    turn->state_ = Turn::State::kReading;
    turn->since_ = SteadyNow();
    --waiting_;
    ++turn->lane_->reading;
    next.push_back(turn);
  }
  return next;
}

void MessageTurns::StartAll(const Turns& turns) {
  for (Turn* const turn : turns) turn->StartReading();
}

MessageTurns::Turn* MessageTurns::InTheWayOf(const Lane& lane, absl::Time now) {
  const bool by_own = lane.reading >= lane_reading_max_;
  Turn* found = nullptr;
  for (Turn* const turn : reading_) {  // in the order in which they began
    const bool slow = now - turn->since_ >= limits_.crowded_time;
    if (turn->state_ != Turn::State::kReading || !slow) continue;
    if (by_own && turn->lane_ != &lane) continue;
    if (found == nullptr || turn->lane_->reading > found->lane_->reading) found = turn;
  }
  return found;
}

void MessageTurns::Look() {
  std::vector<std::pair<Turn*, absl::Status>> late;
  {
    absl::MutexLock lock(&mutex_);
    watched_ = !reading_.empty() || waiting_ > 0;
    if (!watched_) return;
    const absl::Time now = SteadyNow();
    const auto end = [&late](Turn* turn, absl::Status why) {
      turn->state_ = Turn::State::kGivingWay;
      late.emplace_back(turn, std::move(why));
    };
    for (Turn* const turn : reading_) {
      if (turn->state_ != Turn::State::kReading || now - turn->since_ < limits_.time_max) continue;
      end(turn, absl::DeadlineExceededError(absl::StrCat(
                    "the message was not here within ", absl::FormatDuration(limits_.time_max))));
    }
    for (const auto& [name, lane] : lanes_) {
      for (size_t i = 0; i < lane.waiting.size(); ++i) {
        Turn* const slow = InTheWayOf(lane, now);
        if (slow == nullptr) break;
        end(slow, TryLater(absl::StrCat("the message took longer than ",
                                        absl::FormatDuration(limits_.crowded_time),
                                        " while others waited; try again")));
      }
    }
  }
  later_.Run(limits_.crowded_time / 2, [this] { Look(); });
  for (const auto& [turn, why] : late) turn->GiveWay(why);
}

int MessageTurns::reading() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(reading_.size());
}

int MessageTurns::waiting() const {
  absl::MutexLock lock(&mutex_);
  return waiting_;
}

}  // namespace lorica
