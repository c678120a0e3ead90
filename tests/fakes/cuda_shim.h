// The CUDA runtime's allocations, in the place of its own in a test that links this and has its
// symbols exported: one of them fails, or what was allocated holds NaN.
#pragma once

#include <cstdint>

namespace lorica::fakes {

// Counts allocations from now on: of device memory, in a stream or not, and of pinned memory.
// The k-th fails as if there were none left; 0: none does. Any thread.
void FailAllocation(int k);
int CountedAllocations();

// Device memory that is cleared next with just so many bytes holds NaN of every type instead.
void PoisonMemory(int64_t bytes);
bool WasPoisoned();  // since

}  // namespace lorica::fakes
