// Goal: an image is the same whatever its memory held before. What its tiles hold is tested where
// adapters are loaded (peft_loader_test).
#include "adapters/image_builder.h"

#include <gtest/gtest.h>

#include "adapters/peft_loader.h"
#include "tests/fakes/made_adapter.h"

namespace lorica {
namespace {

constexpr int64_t kBlockBytes = 128 << 10;

std::string BytesOf(const LoraImage& image) {
  return {static_cast<const char*>(image.blocks->data()),
          static_cast<size_t>(image.blocks->size_bytes())};
}

TEST(ImageBuilder, WhatNoTileCoversIsZeroWhateverTheMemoryHeld) {
  MadeAdapter adapter;
  adapter.config["r"] = "11";
  adapter.config["use_dora"] = "true";
  for (const LoraModule module : {LoraModule::kQ, LoraModule::kUp, LoraModule::kDown}) {
    adapter.AddPair(0, module, 11, "BF16");
    adapter.AddMagnitude(0, module);
  }
  TemporaryFolder folder;
  adapter.WriteTo(folder, "a");
  const LittleModel model;
  FakeBackend backend;
  PeftLoader loader(model.targets(), &backend, kBlockBytes);
  const auto generation = loader.Identify(*MakeLocalSource(folder.path()), "a");
  ASSERT_TRUE(generation.ok()) << generation.status();
  const auto load = [&](int held) {
    backend.host_holds = held;
    const auto image = loader.LoadImage(**generation);
    EXPECT_TRUE(image.ok()) << image.status();
    return BytesOf(**image);
  };
  EXPECT_TRUE(load(0xff) == load(0));
}

}  // namespace
}  // namespace lorica
