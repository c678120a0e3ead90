// A request while the engine has it: what came, what was generated, what it holds.
// Belongs to the engine's thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "adapters/adapter_pool.h"
#include "kernels/block_arena.h"
#include "server/engine/prefix_cache.h"
#include "server/engine/request.h"

namespace lorica {

inline int32_t KvBlocksFor(int64_t tokens) {
  return static_cast<int32_t>((tokens + kBlockTokens - 1) / kBlockTokens);
}

struct FairLane;

// A greedy row with this bias on one token chooses that one, and so tells its log probability,
// which is that of the raw logits.
inline constexpr float kScoringBias = 1e30f;

// Positions of a request whose rows score the prompt token behind them.
struct ScoredRows {
  int32_t begin = 0;
  int32_t count = 0;
};

struct RequestState {
  RequestId id = 0;  // ids grow with arrival: smaller is older
  EngineRequest request;
  std::string tile_key;                    // ordered (digest, weight); "" = base
  uint64_t tile_number = 0;                // the scheduler's for that key; 0 = base
  std::vector<GenerationPtr> generations;  // distinct ones of the mix
  int32_t adapter_blocks = 0;              // of those
  std::vector<int32_t> output;             // tokens delivered
  std::vector<int32_t> mask;               // of its next token; empty without a constraint
  std::vector<TokenBias> scored_tokens;    // the prompt's, where it is to be scored
  std::vector<TokenEvent::Token> scores;   // of the prompt, until its first token is delivered
  int32_t scored = 1;                      // prompt tokens whose score has come or is not needed

  FairLane* lane = nullptr;  // of its tenant

  bool paused = false;
  bool running = false;              // holds leases, KV and a slot
  std::vector<AdapterLease> leases;  // one a term; some, while the mix loads
  PrefixChain prefix;                // the KV it shares,
  UnitId kv = 0;                     // its own behind that,
  std::vector<BlockId> pages;        // and the blocks of both, in order of position
  int32_t slot = -1;
  int32_t scheduled = 0;   // positions whose K and V are launched
  int32_t pending = 0;     // samples launched and not collected
  uint64_t last_step = 0;  // the last launched step that names it
  uint64_t admitted_step = 0;
  int32_t prompt_reached = 0;  // tokens of the prompt that launched steps have come to, at most
  int32_t cached_tokens = 0;   // of them, whose K and V were there already
  int64_t room_steps = 0;      // steps it has waited for room
  int64_t waits_since = 0;     // the scheduler's turn in which it began to wait
  bool prepared = false;       // its adapters were asked for when it came
  bool mask_late = false;      // its last row was computed in vain: the mask was not there

  bool in_queue = true;  // counts against the queue's limits
  bool was_scheduled = false;
  absl::Time submitted;
  absl::Time load_wait_began = absl::InfiniteFuture();
  bool has_first_token = false;
  RequestTimings timings;

  int32_t known() const { return static_cast<int32_t>(request.prompt.size() + output.size()); }
  // Tokens that exist, on the host or in the token slot.
  int32_t extent() const { return known() + pending; }
  int32_t remaining() const { return extent() - scheduled; }
  // One token to go on with, rather than the start of a prompt.
  bool feeds_one() const { return remaining() == 1 && scheduled > 0; }
  // Positions that ever need K and V: the last token is not fed back.
  int32_t positions_max() const {
    return static_cast<int32_t>(request.prompt.size()) + request.max_tokens - 1;
  }
  int32_t blocks_max() const { return adapter_blocks + KvBlocksFor(positions_max()); }
  int32_t TokenAt(int32_t position) const {
    const auto prompt = static_cast<int32_t>(request.prompt.size());
    if (position < prompt) return request.prompt[position];
    if (position < known()) return output[position - prompt];
    return -1 - slot;
  }
  // Positions whose K and V nobody would find again.
  int32_t lost_if_preempted() const {
    const auto shared = static_cast<int32_t>(prefix.size()) - 1;
    return scheduled - std::max(0, shared) * kBlockTokens;
  }
  bool wants_scores() const { return scored < static_cast<int32_t>(scored_tokens.size()); }
  // Of the next `tokens` positions.
  ScoredRows ScoredAmong(int32_t tokens) const {
    if (!wants_scores()) return {};
    const int32_t begin = std::max(scheduled, scored - 1);
    const int32_t end =
        std::min(scheduled + tokens, static_cast<int32_t>(scored_tokens.size()) - 1);
    return {begin, std::max(0, end - begin)};
  }
  // Of a whole block whose tokens are known.
  BlockTokenIds BlockTokensAt(int32_t block) const {
    BlockTokenIds tokens;
    for (int32_t i = 0; i < kBlockTokens; ++i) tokens[i] = TokenAt(block * kBlockTokens + i);
    return tokens;
  }
  bool needs_history() const { return HasPenalties(request.params); }
  // Whether a row's mask will be there when it is needed. What has failed comes out then.
  bool mask_expected() const {
    if (!mask_late) return true;
    const absl::StatusOr<bool> ready = request.constraint->Ready();
    return !ready.ok() || *ready;
  }
  // Whether a row may be launched now. The newest token need not have been read: it is fed
  // back, and counted in penalties, from its slot.
  bool runnable() const {
    if (!running || paused || remaining() == 0) return false;
    if (pending > 1 && needs_history()) return false;
    if (!mask_expected()) return false;
    return static_cast<int32_t>(output.size()) + pending < request.max_tokens;
  }
};

}  // namespace lorica
