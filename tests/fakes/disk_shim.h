// What the process does to the files of one folder: recorded, failed on request, and laid out anew
// as a disk might hold it that lost its power.
//
// A program that links it has its own open, read, write, fsync, rename and so on, which the C
// library's callers in all libraries use. Of one DiskShim at a time; thread-safe, and threads may
// be within a call when it goes. What reached the disk is taken as badly as POSIX allows but for
// one thing: changes of folders get there in their order, as they do in journals.
#pragma once

#include <cstdint>
#include <random>
#include <string>

namespace lorica::fakes {

class DiskShim {
 public:
  // `root` exists; what is made beneath it from now on counts, and what is read of any file.
  explicit DiskShim(const std::string& root);
  ~DiskShim();
  DiskShim(const DiskShim&) = delete;

  // The k-th change from now on (from 1) is not made and fails with `error`; 0: none does.
  void FailAt(int k, int error);
  // As a part of a disk that cannot be read any more: the k-th read from now on (from 1) and all
  // after it fail with `error`; 0: none does.
  void FailReadsFrom(int k, int error);
  // Whether that one was reached.
  bool failed() const;
  // Creations, writes, truncations, syncs, links, renames and removals so far.
  int changes() const;
  // Makes in `target`, an empty folder, what may be left when the power goes after so many
  // changes: all that was synced, and of the rest none, all, or what `random` likes. kAll is also
  // what a process leaves that is killed.
  enum class Rest { kNone, kAll, kAny };
  void LayOut(int changes, Rest rest, std::mt19937_64& random, const std::string& target) const;
};

}  // namespace lorica::fakes
