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

}  // namespace

bool MessageTurns::MayRead(const Lane& lane) const {
  return static_cast<int>(reading_.size()) < limits_.reading_max &&
         lane.reading < PartOf(limits_.reading_max, limits_.lane_parts);
}

absl::Status MessageTurns::Enter(Turn* turn, const std::string& lane_name) {
  Turns next;
  bool watch = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto lane = lanes_.find(lane_name);
    if (static_cast<int>(waiting_.size()) >= limits_.waiting_max ||
        (lane != lanes_.end() &&
         lane->second.waiting >= PartOf(limits_.waiting_max, limits_.lane_parts))) {
      return TryLater("too many calls wait for their message to be read; try again");
    }
    turn->lane_ = lane_name;
    turn->state_ = Turn::State::kWaiting;
    turn->self_ = waiting_.insert(waiting_.end(), turn);
    ++lanes_[lane_name].waiting;
    next = Next();
    watch = !std::exchange(watched_, true);
  }
  if (watch) later_.Run(limits_.crowded_time, [this] { Look(); });
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
    --lanes_[turn->lane_].reading;
    Forget(turn);
    next = Next();
  }
  StartAll(next);
  return stayed;
}

bool MessageTurns::GiveUp(Turn* turn) {
  absl::MutexLock lock(&mutex_);
  if (turn->state_ != Turn::State::kWaiting) return false;
  waiting_.erase(turn->self_);
  --lanes_[turn->lane_].waiting;
  Forget(turn);
  return true;
}

void MessageTurns::Forget(Turn* turn) {
  turn->state_ = Turn::State::kOutside;
  const auto lane = lanes_.find(turn->lane_);
  if (lane->second.reading == 0 && lane->second.waiting == 0) lanes_.erase(lane);
}

MessageTurns::Turns MessageTurns::Next() {
  Turns next;
  const absl::Time now = SteadyNow();
  for (auto entry = waiting_.begin(); entry != waiting_.end();) {
    if (static_cast<int>(reading_.size()) >= limits_.reading_max) break;
    Turn* const turn = *entry++;
    Lane& lane = lanes_[turn->lane_];
    if (!MayRead(lane)) continue;
    reading_.splice(reading_.end(), waiting_, turn->self_);
    turn->state_ = Turn::State::kReading;
    turn->since_ = now;
    --lane.waiting;
    ++lane.reading;
    next.push_back(turn);
  }
  return next;
}

void MessageTurns::StartAll(const Turns& turns) {
  for (Turn* const turn : turns) turn->StartReading();
}

MessageTurns::Turn* MessageTurns::InTheWayOf(const Turn& waiting, absl::Time now) {
  const bool by_own = lanes_[waiting.lane_].reading >= PartOf(limits_.reading_max,
                                                              limits_.lane_parts);
  Turn* found = nullptr;
  int most = 0;
  for (Turn* const turn : reading_) {  // in the order in which they began
    const int reading = lanes_[turn->lane_].reading;
    const bool slow = now - turn->since_ >= limits_.crowded_time;
    if (turn->state_ != Turn::State::kReading || !slow) continue;
    if (by_own ? turn->lane_ != waiting.lane_ : reading <= most) continue;
    if (by_own) return turn;
    found = turn;
    most = reading;
  }
  return found;
}

void MessageTurns::Look() {
  std::vector<std::pair<Turn*, absl::Status>> late;
  {
    absl::MutexLock lock(&mutex_);
    watched_ = !reading_.empty() || !waiting_.empty();
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
    for (const Turn* const turn : waiting_) {
      Turn* const slow = InTheWayOf(*turn, now);
      if (slow == nullptr) continue;
      end(slow, TryLater(absl::StrCat("the message took longer than ",
                                      absl::FormatDuration(limits_.crowded_time),
                                      " while others waited; try again")));
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
  return static_cast<int>(waiting_.size());
}

}  // namespace lorica
