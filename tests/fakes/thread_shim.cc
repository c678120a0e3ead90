#include "tests/fakes/thread_shim.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <thread>

namespace {

using Run = void* (*)(void*);

std::atomic<bool> g_none = false;
std::atomic<bool> g_learning = false;
std::atomic<Run> g_run = nullptr;  // what all of std::thread's begin with
std::atomic<bool> g_few = false;
std::atomic<int> g_begun = 0;
std::atomic<int> g_left = 0;

#ifndef __SANITIZE_THREAD__
bool MayBegin(Run run) {
  if (g_learning) g_run = run;
  if (g_none) return false;
  if (!g_few || run != g_run) return true;
  if (g_left-- <= 0) return false;
  ++g_begun;
  return true;
}
#endif

}  // namespace

#ifndef __SANITIZE_THREAD__

extern "C" __attribute__((visibility("default"))) int pthread_create(pthread_t* thread,
                                                                     const pthread_attr_t* how,
                                                                     Run run,
                                                                     void* argument) noexcept {
  static const auto systems =
      reinterpret_cast<decltype(&pthread_create)>(::dlsym(RTLD_NEXT, "pthread_create"));
  return MayBegin(run) ? systems(thread, how, run, argument) : EAGAIN;
}
#endif

namespace lorica::fakes {

NoThreads::NoThreads() { g_none = true; }

NoThreads::~NoThreads() { g_none = false; }

FewThreads::FewThreads(int left) {
  g_learning = true;
  std::thread([] {}).join();
  g_learning = false;
  g_begun = 0;
  g_left = left;
  g_few = true;
}

FewThreads::~FewThreads() { g_few = false; }

int FewThreads::begun() const { return g_begun; }

}  // namespace lorica::fakes
