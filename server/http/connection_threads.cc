#include "server/http/connection_threads.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "adapters/hub/steady_now.h"
#include "server/api/refusal_log.h"

namespace lorica {
namespace {

// Bytes that its thread has not read yet: it sits between its client's request and SetBegun.
bool HasRequestAtHand(int socket) {
  char byte = 0;
  return ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

void Tell(int socket, const std::string& text) {
  ::send(socket, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

ConnectionThreads::~ConnectionThreads() { Stop(); }

bool ConnectionThreads::TryRun(std::function<void()> work) {
  std::list<std::thread> ended;
  {
    absl::MutexLock lock(&mutex_);
    ended.swap(ended_);
  }
  for (std::thread& thread : ended) thread.join();
  absl::MutexLock lock(&mutex_);
  if (stopping_) return false;
  const bool free = static_cast<size_t>(free_threads_) > queue_.size();
  if (!free && static_cast<int>(threads_.size()) < threads_max_) {
    if (!StartThread()) {
      CloseOldest();  // for who comes next
      return false;
    }
  } else if (!free) {
    CloseOldest();
    if (queue_.size() >= kWaitingConnectionsMax) return false;
  }
  queue_.push_back(std::move(work));
  work_there_.Signal();
  return true;
}

bool ConnectionThreads::StartThread() {
  const auto self = threads_.emplace(threads_.end());
  try {
    *self = std::thread([this, self] { Loop(self); });
    return true;
  } catch (const std::system_error& error) {
    threads_.erase(self);
    LogRefusal("connection", "",
               absl::UnavailableError(
                   absl::StrCat("no thread can be made for it (", error.what(),
                                "): allow the process more, or fewer --http-generations")),
               SteadyNow());
    return false;
  }
}

void ConnectionThreads::TurnAway(int socket) const {
  Tell(socket, full_);
  ::shutdown(socket, SHUT_RDWR);
  ::close(socket);
}

void ConnectionThreads::Loop(std::list<std::thread>::iterator self) {
  pthread_setname_np(pthread_self(), "http");
  while (const std::function<void()> work = Await()) work();
  absl::MutexLock lock(&mutex_);
  if (!stopping_) ended_.splice(ended_.end(), threads_, self);
}

std::function<void()> ConnectionThreads::Await() {
  absl::MutexLock lock(&mutex_);
  ++free_threads_;
  bool waited = false;
  while (queue_.empty() && !stopping_ && !waited) {
    waited = work_there_.WaitWithTimeout(&mutex_, thread_idle_time_);
  }
  --free_threads_;
  if (queue_.empty()) return nullptr;
  std::function<void()> work = std::move(queue_.front());
  queue_.pop_front();
  return work;
}

int ConnectionThreads::threads() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(threads_.size());
}

void ConnectionThreads::Close(Place* place) {
  if (!std::exchange(place->closed_, true)) ::shutdown(place->socket_, SHUT_RDWR);
}

bool ConnectionThreads::Crowded() const {
  return static_cast<int>(threads_.size()) >= threads_max_ &&
         queue_.size() > static_cast<size_t>(free_threads_);
}

void ConnectionThreads::CloseOldest() {
  if (!CloseOldestIdle() && !CloseOldestHead()) CloseOldestReading();
}

bool ConnectionThreads::CloseOldestIdle() {
  for (Place* place : places_) {
    const bool idle = place->state_ == Place::State::kIdle && !place->closed_;
    if (!idle || HasRequestAtHand(place->socket_)) continue;
    if (!place->served_) Tell(place->socket_, full_);
    Close(place);
    return true;
  }
  return false;
}

// Told and cut at once, for there may be many; over TLS its thread alone can tell it.
void ConnectionThreads::EndHead(Place* place) {
  if (full_.empty()) {
    place->gives_way_ = true;
    return;
  }
  Tell(place->socket_, full_);
  place->told_ = true;
  Close(place);
}

bool ConnectionThreads::CloseOldestHead() {
  const absl::Time latest = SteadyNow() - kCrowdedHeadTime;
  for (Place* place : places_) {
    const bool begun = place->state_ == Place::State::kBegun && !place->is_leaving();
    if (!begun || place->since_ > latest || HasRequestAtHand(place->socket_)) continue;
    EndHead(place);
    return true;
  }
  return false;
}

// Its thread tells it, when it looks: what still comes would make a reset of the answer.
bool ConnectionThreads::CloseOldestReading() {
  const auto reading = [](const Place& place) {
    return place.state_ == Place::State::kReading && !place.is_leaving();
  };
  std::map<std::string_view, int> count_of;
  for (const Place* place : places_) {
    if (reading(*place)) ++count_of[place->tenant_];
  }
  const absl::Time latest = SteadyNow() - kCrowdedBodyTime;
  Place* chosen = nullptr;
  for (Place* place : places_) {
    if (!reading(*place) || place->since_ > latest) continue;
    const bool more = chosen == nullptr || count_of[place->tenant_] > count_of[chosen->tenant_];
    if (more && !HasRequestAtHand(place->socket_)) chosen = place;
  }
  if (chosen == nullptr) return false;
  chosen->gives_way_ = true;
  return true;
}

size_t ConnectionThreads::Lacking() const {
  if (!Crowded()) return 0;
  size_t ending = 0;
  for (const Place* place : places_) ending += place->is_leaving() ? 1 : 0;
  const size_t wanted = queue_.size() - static_cast<size_t>(free_threads_);
  return wanted - std::min(wanted, ending);
}

void ConnectionThreads::StartDrain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  for (Place* place : places_) {
    if (place->state_ == Place::State::kIdle && !HasRequestAtHand(place->socket_)) Close(place);
  }
}

void ConnectionThreads::Stop() {
  std::list<std::thread> threads;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = stopping_ = true;
    for (Place* place : places_) Close(place);
    threads.swap(threads_);
    threads.splice(threads.end(), ended_);
  }
  work_there_.SignalAll();
  for (std::thread& thread : threads) thread.join();
}

ConnectionThreads::Place::Place(ConnectionThreads* threads, int socket)
    : threads_(threads), socket_(socket) {
  absl::MutexLock lock(&threads_->mutex_);
  self_ = threads_->places_.insert(threads_->places_.end(), this);
  if (threads_->stopping_) Close(this);
}

ConnectionThreads::Place::~Place() {
  absl::MutexLock lock(&threads_->mutex_);
  threads_->places_.erase(self_);
}

absl::Duration ConnectionThreads::Place::SetIdle(absl::Duration keep_alive) {
  absl::MutexLock lock(&threads_->mutex_);
  state_ = State::kIdle;
  threads_->places_.splice(threads_->places_.end(), threads_->places_, self_);
  if (is_leaving() || (threads_->draining_ && served_)) return absl::ZeroDuration();
  hurried_ = threads_->Crowded() && keep_alive > kCrowdedWait;
  return hurried_ ? kCrowdedWait : keep_alive;
}

void ConnectionThreads::Place::GiveWay() {
  absl::MutexLock lock(&threads_->mutex_);
  if (hurried_ && !served_ && !is_leaving()) Tell(socket_, threads_->full_);
}

void ConnectionThreads::Place::SetBegun() {
  absl::MutexLock lock(&threads_->mutex_);
  state_ = State::kBegun;
  since_ = SteadyNow();
  threads_->places_.splice(threads_->places_.end(), threads_->places_, self_);
}

void ConnectionThreads::Place::SetReading(std::string tenant) {
  absl::MutexLock lock(&threads_->mutex_);
  state_ = State::kReading;
  served_ = true;
  tenant_ = std::move(tenant);
  since_ = SteadyNow();
  threads_->places_.splice(threads_->places_.end(), threads_->places_, self_);
}

bool ConnectionThreads::Place::MustGiveWay() {
  absl::MutexLock lock(&threads_->mutex_);
  const absl::Duration took = SteadyNow() - since_;
  if (threads_->draining_ && took > kDrainedReadTime) gives_way_ = true;
  size_t lacking = threads_->Lacking();
  if (state_ == State::kBegun) {
    if (lacking > 0 && took > kCrowdedHeadTime && !is_leaving()) threads_->EndHead(this);
  } else {
    while (lacking > 0 && threads_->CloseOldestReading()) --lacking;
  }
  return is_leaving();
}

bool ConnectionThreads::Place::told() const {
  absl::MutexLock lock(&threads_->mutex_);
  return told_;
}

bool ConnectionThreads::Place::SetBusy() {
  absl::MutexLock lock(&threads_->mutex_);
  state_ = State::kBusy;
  served_ = true;
  return !is_leaving();
}

}  // namespace lorica
