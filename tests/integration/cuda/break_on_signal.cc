// Loaded into a server before all else (LD_PRELOAD): SIGUSR1 breaks its device.
#include <semaphore.h>
#include <signal.h>

#include <thread>

#include "tests/integration/cuda/break_device.h"

namespace lorica {
namespace {

sem_t g_asked;

// Before main, which has its own threads and its own signals.
[[gnu::constructor]] void Arm() {
  sem_init(&g_asked, 0, 0);
  signal(SIGUSR1, [](int) { sem_post(&g_asked); });
  std::thread([] {
    while (sem_wait(&g_asked) != 0) {
    }
    BreakDevice();
  }).detach();
}

}  // namespace
}  // namespace lorica
