// Options, memory, copies beside steps.
#include <limits>

#include "tests/kernels/kernel_test.h"

namespace lorica::testing {
namespace {

TEST(MakeCpuBackend, RefusesOptionsThatCannotBeMet) {
  EXPECT_TRUE(MakeCpuBackend({.threads = 256}).ok());
  EXPECT_EQ(MakeCpuBackend({.threads = 257}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCpuBackend({.threads = -1}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCpuBackend({.rows_max = 0}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(MakeCpuBackend({.rows_max = (1 << 16) + 1}).ok());
  EXPECT_GE((*MakeCpuBackend({}))->threads(), 1);
}

class BackendTest : public KernelTest {};

TEST_P(BackendTest, MemoryIsZeroedAlignedAndBounded) {
  for (const int64_t bytes : {int64_t{1}, int64_t{4097}, int64_t{3} << 20}) {
    for (auto& buffer : {*backend_->Allocate(bytes), *backend_->NewHostBuffer(bytes)}) {
      EXPECT_EQ(buffer->size_bytes(), bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    }
    const auto buffer = *backend_->Allocate(bytes);
    std::vector<std::byte> read(bytes, std::byte{1});
    backend_->Download(read.data(), buffer->data(), bytes);
    EXPECT_EQ(std::count(read.begin(), read.end(), std::byte{0}), bytes);
  }
  EXPECT_EQ(backend_->Allocate(std::numeric_limits<int64_t>::max()).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_P(BackendTest, CopiesLandWholeInTheirBlocks) {
  const AttentionShape shape = {2, 4, 2, 64, 0.125f, 0, 0};
  PoisonedArena arena(*backend_, shape, 20);
  const int64_t bytes = arena.cache().block_bytes;
  const auto host = *backend_->NewHostBuffer(8 * bytes);
  auto* source = static_cast<std::byte*>(host->data());
  for (int64_t i = 0; i < 8 * bytes; ++i) source[i] = static_cast<std::byte>(i * 31 / 7);
  const auto blocks = arena.Take(8);
  std::vector<BlockCopy> copies;
  for (int i = 0; i < 8; ++i) copies.push_back({source + i * bytes, blocks[i]});
  const auto ticket = backend_->StartCopy(arena.cache(), copies);
  while (!ticket->Done()) std::this_thread::yield();
  EXPECT_TRUE(ticket->status().ok());
  std::vector<std::byte> read(bytes);
  for (int i = 0; i < 8; ++i) {
    backend_->Download(read.data(),
                       static_cast<std::byte*>(arena.cache().arena) + blocks[i] * bytes, bytes);
    EXPECT_EQ(std::memcmp(read.data(), source + i * bytes, bytes), 0);
  }
}

TEST_P(BackendTest, AnAbandonedTicketStillCopies) {
  const AttentionShape shape = {2, 4, 2, 64, 0.125f, 0, 0};
  PoisonedArena arena(*backend_, shape, 2);
  const auto host = *backend_->NewHostBuffer(arena.cache().block_bytes);
  const BlockCopy copy = {static_cast<const std::byte*>(host->data()), arena.Take(1)[0]};
  backend_->StartCopy(arena.cache(), {&copy, 1});
  const auto last = backend_->StartCopy(arena.cache(), {&copy, 1});
  while (!last->Done()) std::this_thread::yield();
}

TEST_P(BackendTest, TheNameSaysWhatRuns) {
  const bool cpu = GetParam().name.find("Cpu") == 0;
  EXPECT_EQ(backend_->name().find(cpu ? "cpu (" : "cuda ("), 0u) << backend_->name();
  EXPECT_EQ(backend_->name().find("thread") != std::string::npos, cpu) << backend_->name();
}

INSTANTIATE_TEST_SUITE_P(Backends, BackendTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lorica::testing
