// Drives a fuzz target without libFuzzer: every seed as it is, then changed a little.
//
//   x_fuzz FOLDER [changes of each seed]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"

namespace {

constexpr int kChangesPerSeed = 200;
constexpr int kChangesAtOnce = 8;

void Run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

// Bits, cuts, copies of stretches, and numbers at their ends.
void Change(std::string& input, std::mt19937& random) {
  if (input.empty()) input.push_back('x');
  const size_t at = random() % input.size();
  switch (random() % 5) {
    case 0:
      input[at] = static_cast<char>(input[at] ^ (1 << random() % 8));
      break;
    case 1:
      input[at] = static_cast<char>(random());
      break;
    case 2:
      input.erase(at, 1 + random() % 16);
      break;
    case 3:
      input.insert(at, input.substr(random() % input.size(), 1 + random() % 32));
      break;
    default:
      std::fill_n(input.begin() + at, std::min<size_t>(8, input.size() - at),
                  random() % 2 ? '\xff' : '\0');
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  std::vector<std::string> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
    std::ifstream file(entry.path(), std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (seeds.empty()) {
    std::fprintf(stderr, "%s holds no seeds\n", argv[1]);
    return 1;
  }
  std::sort(seeds.begin(), seeds.end());
  const int changes = argc > 2 ? std::atoi(argv[2]) : kChangesPerSeed;
  std::mt19937 random(1);
  for (const std::string& seed : seeds) {
    Run(seed);
    for (int i = 0; i < changes; ++i) {
      std::string input = seed;
      for (int n = 1 + random() % kChangesAtOnce; n > 0; --n) Change(input, random);
      Run(input);
    }
  }
  std::printf("%zu seeds, %d changes of each\n", seeds.size(), changes);
  return 0;
}
