// What is computed once and what is not, seen in the plans, and that answers do not tell.
#include "server/engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "tests/server/engine/engine_fixture.h"

namespace lorica {
namespace {

using fakes::MakeFakeGeneration;
using Submitted = EngineWorld::Submitted;

class PrefixCacheAtDepth : public testing::TestWithParam<int> {
 protected:
  EngineWorld::Options Options() const {
    EngineWorld::Options options;
    options.depth = GetParam();
    options.arena_blocks = 4000;
    options.engine.rows_max = 1280;
    options.engine.chunk_tokens = 1024;
    return options;
  }
  // Runs to the end; rows that were no decode rows.
  static int64_t PromptRows(EngineWorld& world) {
    int64_t rows = 0;
    while (!world.engine->idle()) {
      world.held.RunAll();
      const StepPlan plan = world.Step().plan;
      rows += plan.rows - plan.decode_rows;
    }
    return rows;
  }
  // Runs one request alone; tokens that it did not compute.
  static int32_t CachedOf(EngineWorld& world, EngineRequest request) {
    const Submitted one = world.Submit(std::move(request));
    world.Run();
    EXPECT_TRUE(one.ended_well() && one.right());
    EXPECT_EQ(one.sink->finish.prompt_tokens, std::ssize(one.request.prompt));
    return one.sink->finish.cached_tokens;
  }
};

EngineRequest SharedPrompt(int shared, int own, int which, std::vector<MixTerm> mix = {}) {
  EngineRequest request = EngineWorld::Request(shared, 8, std::move(mix));
  for (int i = 0; i < own; ++i) {
    request.prompt.push_back((which * 131 + i * 17) % kTestVocabulary);
  }
  return request;
}

TEST_P(PrefixCacheAtDepth, ThirtyTwoRequestsWithOnePrefixComputeItAboutOnce) {
  for (const bool together : {true, false}) {
    int64_t rows[2] = {};
    for (const bool on : {false, true}) {
      EngineWorld::Options options = Options();
      options.engine.prefix_cache = on;
      EngineWorld world(options);
      const GenerationPtr adapter = MakeFakeGeneration("a", 2);
      std::vector<Submitted> all;
      for (int i = 0; i < 32; ++i) {
        all.push_back(world.Submit(SharedPrompt(1024, 20, i, {{adapter, 1.0f}})));
        if (!together) rows[on] += PromptRows(world);
      }
      rows[on] += PromptRows(world);
      int64_t cached = 0;
      for (const Submitted& one : all) {
        EXPECT_TRUE(one.ended_well() && one.right());
        EXPECT_EQ(one.sink->finish.prompt_tokens, 1044);
        cached += one.sink->finish.cached_tokens;
      }
      EXPECT_EQ(world.engine->stats().cached_tokens, cached);
      EXPECT_EQ(world.engine->stats().prompt_tokens, 32 * 1044);
      EXPECT_EQ(rows[on] + cached, 32 * 1044);
    }
    EXPECT_EQ(rows[0], 32 * 1044);
    std::printf("prompt rows %s: %ld without, %ld with, %.1f times less\n",
                together ? "together" : "one after the other", rows[0], rows[1],
                static_cast<double>(rows[0]) / static_cast<double>(rows[1]));
    EXPECT_GE(rows[0], 5 * rows[1]) << "together " << together;
  }
}

TEST_P(PrefixCacheAtDepth, WholeBlocksAreReusedAndTheLastTokenIsComputed) {
  for (const int prompt : {1, 15, 16, 17, 31, 32, 33, 100}) {
    EngineWorld world(Options());
    EXPECT_EQ(CachedOf(world, EngineWorld::Request(prompt, 8)), 0) << prompt;
    EXPECT_EQ(CachedOf(world, EngineWorld::Request(prompt, 8)), (prompt - 1) / 16 * 16) << prompt;
  }
}

TEST_P(PrefixCacheAtDepth, NothingIsSharedAcrossTenantsGenerationsOrMixes) {
  EngineWorld world(Options());
  const GenerationPtr a = MakeFakeGeneration("a", 1);
  const GenerationPtr b = MakeFakeGeneration("b", 1);
  const std::vector<std::vector<MixTerm>> mixes = {{},
                                                   {{a, 1.0f}},
                                                   {{a, 0.5f}},
                                                   {{b, 1.0f}},
                                                   {{a, 1.0f}, {b, 1.0f}},
                                                   {{a, 2.0f}, {b, 1.0f}},
                                                   {{b, 1.0f}, {a, 1.0f}}};
  const std::vector<std::string> tenants = {"", "one", "two"};
  for (const int32_t expected : {0, 48}) {
    for (const std::string& tenant : tenants) {
      for (const std::vector<MixTerm>& mix : mixes) {
        EngineRequest request = EngineWorld::Request(50, 8, mix);
        request.tenant = tenant;
        EXPECT_EQ(CachedOf(world, request), expected) << tenant << " " << mix.size();
      }
    }
  }
}

TEST_P(PrefixCacheAtDepth, ATokenThatDiffersEndsWhatIsShared) {
  EngineWorld world(Options());
  CachedOf(world, EngineWorld::Request(100, 8));
  for (int at = 0; at < 100; at += 9) {
    EngineRequest request = EngineWorld::Request(100, 8);
    request.prompt[at] = (request.prompt[at] + 1) % kTestVocabulary;
    EXPECT_EQ(CachedOf(world, request), std::min(at / 16 * 16, 96)) << at;
  }
}

TEST_P(PrefixCacheAtDepth, TheNextTurnOfATalkFindsTheAnswerToo) {
  EngineWorld world(Options());
  EngineRequest request = EngineWorld::Request(40, 60);
  request.ignore_end = true;
  const Submitted first = world.Submit(request);
  world.Run();
  ASSERT_EQ(first.sink->tokens.size(), 60u);
  request.prompt.insert(request.prompt.end(), first.sink->tokens.begin(), first.sink->tokens.end());
  for (int i = 0; i < 30; ++i) request.prompt.push_back(i);
  EXPECT_EQ(CachedOf(world, request), 96);  // of 100, whose last is never fed back
}

TEST_P(PrefixCacheAtDepth, WhatIsNotFiniteIsNeverShared) {
  EngineWorld world(Options());
  world.executor.poisoned = {fakes::HashAdapter("bad", 1)};
  for (int i = 0; i < 2; ++i) {
    const Submitted bad =
        world.Submit(EngineWorld::Request(100, 8, {{MakeFakeGeneration("bad", 1), 1.0f}}));
    world.Run();
    EXPECT_EQ(bad.sink->finish.status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(bad.sink->finish.cached_tokens, 0);
    EXPECT_EQ(world.engine->stats().prefix_blocks, 0);
  }
}

TEST_P(PrefixCacheAtDepth, WhoseEndCameBeforeItsFirstTokenLeavesNothing) {
  EngineWorld::Options options = Options();
  options.engine.chunk_tokens = 40;
  EngineWorld world(options);
  const Submitted one = world.Submit(EngineWorld::Request(100, 8));
  for (int i = 0; i < 2; ++i) world.Step();
  world.engine->Cancel(one.id);
  world.Run();
  EXPECT_EQ(world.engine->stats().prefix_blocks, 0);
  EXPECT_EQ(world.arena.free_blocks(), 4000);
}

TEST_P(PrefixCacheAtDepth, APromptThatHasBegunGoesOnBehindWhatAnotherComputed) {
  EngineWorld::Options options = Options();
  options.engine.chunk_tokens = 100;
  EngineWorld world(options);
  std::vector<Submitted> all;
  for (int i = 0; i < 2; ++i) all.push_back(world.Submit(SharedPrompt(330, 200, i)));
  const int64_t rows = PromptRows(world);
  for (const Submitted& one : all) EXPECT_TRUE(one.ended_well() && one.right());
  EXPECT_EQ(all[0].sink->finish.cached_tokens, 0);
  EXPECT_GT(all[1].sink->finish.cached_tokens, 100);
  EXPECT_EQ(rows + all[1].sink->finish.cached_tokens, 2 * 530);
}

TEST_P(PrefixCacheAtDepth, WhoGaveWayFindsWhatIsLeftOfItsKv) {
  int64_t rows[2] = {};
  for (const bool on : {false, true}) {
    EngineWorld::Options options = Options();
    options.arena_blocks = 20;
    options.engine.prefix_cache = on;
    EngineWorld world(options);
    const Submitted older = world.Submit(EngineWorld::Request(100, 120));
    const Submitted newer = world.Submit(EngineWorld::Request(150, 60));
    rows[on] = PromptRows(world);
    EXPECT_TRUE(older.right() && newer.right());
    EXPECT_EQ(newer.sink->finish.timings.preemptions, 1);
    EXPECT_EQ(newer.sink->finish.cached_tokens, 0);  // the bill does not tell
  }
  EXPECT_LE(rows[1], rows[0] - 3 * kBlockTokens) << rows[0];
}

TEST_P(PrefixCacheAtDepth, OffMeansOff) {
  EngineWorld::Options options = Options();
  options.engine.prefix_cache = false;
  EngineWorld world(options);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(CachedOf(world, EngineWorld::Request(100, 8)), 0);
  EXPECT_EQ(world.arena.free_blocks(), 4000);
}

TEST_P(PrefixCacheAtDepth, WhatIsKeptMakesRoomForRequestsAndAdaptersOldestFirst) {
  EngineWorld::Options options = Options();
  options.arena_blocks = 24;
  EngineWorld world(options);
  EXPECT_EQ(CachedOf(world, EngineWorld::Request(81, 2)), 0);  // 5 blocks stay
  EXPECT_EQ(CachedOf(world, EngineWorld::Request(97, 2)), 0);  // and 6
  EXPECT_EQ(world.engine->stats().prefix_blocks, 11);
  EXPECT_EQ(CachedOf(world, EngineWorld::Request(81, 2)), 80);  // now the later ones
  CachedOf(world, EngineWorld::Request(3, 2, {{MakeFakeGeneration("large", 16), 1.0f}}));
  EXPECT_EQ(CachedOf(world, EngineWorld::Request(81, 2)), 80);
  const int32_t left = CachedOf(world, EngineWorld::Request(97, 2));
  EXPECT_GT(left, 0);  // leaves went, the beginning stayed
  EXPECT_LT(left, 96);
}

INSTANTIATE_TEST_SUITE_P(Depth, PrefixCacheAtDepth, testing::Values(0, 1));

// The tree by itself.
struct Tree {
  static BlockTokenIds Tokens(int32_t first) {
    BlockTokenIds tokens = {};
    tokens[0] = first;
    return tokens;
  }
  UnitId Kv(int32_t blocks) { return *arena.Allocate(UnitKind::kKv, blocks, nullptr); }
  void Check(const PrefixChain& chain = {}) {
    cache.CheckInvariants({&chain});
    arena.CheckInvariants();
  }

  BlockArena arena{8};
  PrefixCache cache{&arena};
};

TEST(PrefixCache, LeavesAreEvictedBeforeTheirParents) {
  Tree tree;
  const UnitId kv = tree.Kv(4);
  PrefixChain chain = tree.cache.Begin("t", "k");
  for (int32_t i = 0; i < 4; ++i) tree.cache.Add(chain, Tree::Tokens(i), kv);
  tree.arena.Free(kv);
  tree.Check(chain);
  EXPECT_EQ(tree.cache.held_blocks(), 4);
  tree.cache.Release(chain);
  tree.Check();
  EXPECT_EQ(tree.cache.idle_blocks(), 4);
  for (int32_t left = 3; left >= 0; --left) {
    const UnitId more = tree.Kv(tree.arena.free_blocks() + 1);
    tree.Check();
    EXPECT_EQ(tree.cache.idle_blocks(), left);
    PrefixChain again = tree.cache.Begin("t", "k");
    const PrefixNode* node = again.back();
    for (int32_t i = 0; i < left; ++i) {
      node = tree.cache.Find(node, Tree::Tokens(i));
      ASSERT_NE(node, nullptr) << i << " of " << left;
    }
    EXPECT_EQ(tree.cache.Find(node, Tree::Tokens(left)), nullptr);
    tree.cache.Release(again);
    tree.arena.Free(more);
  }
}

TEST(PrefixCache, ABlockIsDividedAmongThoseWhoHoldIt) {
  Tree tree;
  const UnitId kv = tree.Kv(8);
  PrefixChain first = tree.cache.Begin("t", "k");
  EXPECT_EQ(PartOf({}), 0.0);
  EXPECT_EQ(PartOf(first), 0.0);
  for (int32_t i = 0; i < 8; ++i) tree.cache.Add(first, Tree::Tokens(i), kv);
  EXPECT_EQ(PartOf(first), 8.0);
  PrefixChain second = tree.cache.Begin("t", "k");
  PrefixChain third = tree.cache.Begin("t", "k");
  const auto follow = [&](PrefixChain& chain, int32_t blocks) {
    for (int32_t i = 1; i <= blocks; ++i) {
      tree.cache.Hold(first[i]);
      chain.push_back(first[i]);
    }
  };
  follow(second, 6);
  follow(third, 3);
  EXPECT_DOUBLE_EQ(PartOf(first), 3 / 3.0 + 3 / 2.0 + 2);
  EXPECT_DOUBLE_EQ(PartOf(second), 3 / 3.0 + 3 / 2.0);
  EXPECT_DOUBLE_EQ(PartOf(third), 3 / 3.0);
  for (PrefixChain* chain : {&third, &second, &first}) tree.cache.Release(*chain);
  tree.arena.Free(kv);
  tree.Check();
}

TEST(PrefixCache, WhatIsHeldStaysAndSoDoItsParents) {
  Tree tree;
  const UnitId kv = tree.Kv(3);
  PrefixChain chain = tree.cache.Begin("t", "k");
  for (int32_t i = 0; i < 3; ++i) tree.cache.Add(chain, Tree::Tokens(i), kv);
  tree.arena.Free(kv);
  PrefixChain other = tree.cache.Begin("t", "k");
  for (int32_t i = 0; i < 2; ++i) {
    other.push_back(tree.cache.Find(other.back(), Tree::Tokens(i)));
    tree.cache.Hold(other.back());
  }
  tree.cache.Release(chain);
  tree.Check(other);
  EXPECT_EQ(tree.cache.held_blocks(), 2);
  EXPECT_EQ(tree.arena.available_blocks(), 6);
  EXPECT_FALSE(tree.arena.Allocate(UnitKind::kKv, 7, nullptr).ok());
  const UnitId all = tree.Kv(6);
  EXPECT_EQ(tree.cache.idle_blocks(), 0);
  tree.Check(other);
  tree.arena.Free(all);
  tree.cache.Release(other);
  tree.Check();
}

TEST(PrefixCache, RootsOfTenantsAndTilesAreApartAndGoWithTheirLastNode) {
  Tree tree;
  const UnitId kv = tree.Kv(2);
  PrefixChain one = tree.cache.Begin("t", "k");
  tree.cache.Add(one, Tree::Tokens(1), kv);
  for (const auto& [tenant, tiles] : {std::pair("t", "l"), {"u", "k"}, {"", "tk"}, {"tk", ""}}) {
    PrefixChain other = tree.cache.Begin(tenant, tiles);
    EXPECT_EQ(tree.cache.Find(other.back(), Tree::Tokens(1)), nullptr);
    tree.cache.Release(other);
  }
  tree.cache.Release(one);
  tree.arena.Free(kv);
  tree.arena.Free(tree.Kv(8));  // evicts all
  tree.Check();
  EXPECT_EQ(tree.cache.idle_blocks(), 0);
}

}  // namespace
}  // namespace lorica
