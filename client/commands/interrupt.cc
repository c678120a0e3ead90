#include "client/commands/interrupt.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace lorica {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

InterruptWatcher::InterruptWatcher(std::function<void()> on_interrupt) {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this, set, call = std::move(on_interrupt)] {
    int signal = 0;
    while (sigwait(&set, &signal) == 0 && !done_) call();
  });
}

InterruptWatcher::~InterruptWatcher() {
  done_ = true;
  pthread_kill(thread_.native_handle(), SIGINT);
  thread_.join();
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace lorica
