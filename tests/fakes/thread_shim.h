// How many threads the process may still begin, in place of what the system says. One at a time;
// not for the thread sanitizer, which would take a library's threads for ours.
#pragma once

namespace lorica::fakes {

// While one lives nobody begins a thread.
class NoThreads {
 public:
  NoThreads();
  NoThreads(const NoThreads&) = delete;
  ~NoThreads();
};

// While one lives `left` more may be begun by std::thread; those of libraries in C are not ours.
class FewThreads {
 public:
  explicit FewThreads(int left);
  FewThreads(const FewThreads&) = delete;
  ~FewThreads();
  int begun() const;
};

}  // namespace lorica::fakes
