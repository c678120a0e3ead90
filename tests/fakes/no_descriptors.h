// Takes every descriptor that the process may still open but `left` of them, until it goes. One at
// a time.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace lorica {

class NoDescriptors {
 public:
  explicit NoDescriptors(int left = 0) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit few{std::min(kFew, before_.rlim_cur), before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &few);
    for (int taken = ::dup(0); taken >= 0; taken = ::dup(0)) taken_.push_back(taken);
    for (; left > 0 && !taken_.empty(); --left) {
      ::close(taken_.back());
      taken_.pop_back();
    }
  }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;
  ~NoDescriptors() {
    for (const int taken : taken_) ::close(taken);
    ::setrlimit(RLIMIT_NOFILE, &before_);
  }

 private:
  static constexpr rlim_t kFew = 256;
  rlimit before_{};
  std::vector<int> taken_;
};

}  // namespace lorica
