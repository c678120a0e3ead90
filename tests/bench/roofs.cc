// The roofs beside which side_by_side.py prints its figures.
//
//   roofs THREADS      prints "GB/s GFLOP/s": a sum over 512 MiB, fused multiply-adds in registers
//
// Best of seven. Needs AVX2 and FMA.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

volatile int sink;

template <typename Work>
double BestSeconds(int threads, const Work& work) {
  double best = 1e30;
  for (int round = 0; round < 7; ++round) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t) running.emplace_back(work, t);
    for (std::thread& thread : running) thread.join();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

void Read(const char* from, size_t bytes) {
  __m256i sums[4] = {};
  for (size_t i = 0; i + 128 <= bytes; i += 128) {
    for (int j = 0; j < 4; ++j) {
      const auto* vector = reinterpret_cast<const __m256i*>(from + i + 32 * j);
      sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256(vector));
    }
  }
  for (int j = 1; j < 4; ++j) sums[0] = _mm256_xor_si256(sums[0], sums[j]);
  sink = _mm256_extract_epi32(sums[0], 0);
}

void Multiply(long rounds) {
  __m256 sums[12];
  for (__m256& sum : sums) sum = _mm256_set1_ps(1.0f);
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (long i = 0; i < rounds; ++i) {
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, a, b);
  }
  for (int j = 1; j < 12; ++j) sums[0] = _mm256_add_ps(sums[0], sums[j]);
  sink = static_cast<int>(_mm256_cvtss_f32(sums[0]));
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::max(1, std::atoi(arguments[1])) : 1;
  constexpr size_t kBytes = size_t{512} << 20;
  constexpr long kRounds = 4'000'000;
  const std::vector<char> data(kBytes, 1);
  const size_t part = kBytes / threads;
  const double read = BestSeconds(threads, [&](int t) { Read(data.data() + t * part, part); });
  const double multiply = BestSeconds(threads, [](int) { Multiply(kRounds); });
  std::printf("%.2f %.2f\n", 1e-9 * kBytes / read, 1e-9 * threads * kRounds * 12 * 16 / multiply);
}
