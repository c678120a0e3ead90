#include "server/http/connection_threads.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

namespace lorica {
namespace {

// Bytes that its thread has not read yet: it sits between its client's request and SetBusy.
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
    const auto self = threads_.emplace(threads_.end());
    *self = std::thread([this, self] { Loop(self); });
  } else if (!free) {
    CloseOldestIdle();
    if (queue_.size() >= kWaitingConnectionsMax) return false;
  }
  queue_.push_back(std::move(work));
  work_there_.Signal();
  return true;
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

void ConnectionThreads::CloseOldestIdle() {
  for (Place* place : places_) {
    if (!place->idle_ || place->closed_ || HasRequestAtHand(place->socket_)) continue;
    if (!place->served_) Tell(place->socket_, full_);
    return Close(place);
  }
}

void ConnectionThreads::StartDrain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  for (Place* place : places_) {
    if (place->idle_) Close(place);
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
  idle_ = true;
  threads_->places_.splice(threads_->places_.end(), threads_->places_, self_);
  if (closed_ || (threads_->draining_ && served_)) return absl::ZeroDuration();
  hurried_ = threads_->Crowded() && keep_alive > kCrowdedWait;
  return hurried_ ? kCrowdedWait : keep_alive;
}

void ConnectionThreads::Place::GiveWay() {
  absl::MutexLock lock(&threads_->mutex_);
  if (hurried_ && !served_ && !closed_) Tell(socket_, threads_->full_);
}

void ConnectionThreads::Place::SetBusy() {
  absl::MutexLock lock(&threads_->mutex_);
  idle_ = false;
  served_ = true;
}

}  // namespace lorica
