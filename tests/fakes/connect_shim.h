// Whom this process turns to: connections that are begun, and names that are looked up.
//
// Takes the place of the C library's connect() and getaddrinfo() for every library of the process;
// both then do what they always do. What the C library itself sends to a resolver is seen by the
// name that was looked up.
#pragma once

#include <string>
#include <vector>

namespace lorica::fakes {

// While it exists; one at a time. Thread-safe, as what it watches.
class WatchedConnects {
 public:
  WatchedConnects();
  ~WatchedConnects();

  // The port of each connection that went to this machine, else the address; each name.
  std::vector<std::string> Seen() const;
};

}  // namespace lorica::fakes
