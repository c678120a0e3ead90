#include "kernels/cuda/served_sizes.h"

#include "absl/strings/str_cat.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/step_image.h"

namespace lorica::cuda {
static_assert(kServedGroupMax == kAttendGroupMax);
static_assert(kServedHiddenMax == kResidualColumnsMax);
static_assert(kServedVocabularyMax == kSampleVocabularyMax);
static_assert(kServedLayersMax * 4 == kPairsMax);
static_assert(kServedFfnMax * 2 == kLoraColumnsMax);
static_assert(kServedPagesMax == kPagesMax);

absl::Status CheckServedSizes(const AttentionShape& shape, const ModelSizes& sizes) {
  const auto refuse = [](const auto&... what) {
    return absl::InvalidArgumentError(
        absl::StrCat("the CUDA backend does not serve ", what..., "; use --device cpu"));
  };
  if (shape.head_size <= 0 || shape.head_size % 8 != 0 || shape.head_size > kServedHeadSizeMax) {
    return refuse("heads of ", shape.head_size, " (multiples of 8 up to ", kServedHeadSizeMax,
                  " are served)");
  }
  if (shape.heads / shape.kv_heads > kServedGroupMax) {
    return refuse(shape.heads / shape.kv_heads, " query heads a key/value head (at most ",
                  kServedGroupMax, " are)");
  }
  if (shape.layers > kServedLayersMax) {
    return refuse(shape.layers, " layers (at most ", kServedLayersMax, " are)");
  }
  if (sizes.hidden % 8 != 0 || sizes.ffn % 8 != 0) {
    return refuse("widths that are no multiple of 8");
  }
  if (sizes.hidden > kServedHiddenMax) {
    return refuse("a hidden size of ", sizes.hidden, " (at most ", kServedHiddenMax, " is)");
  }
  if (sizes.ffn > kServedFfnMax) {
    return refuse("a feed-forward size of ", sizes.ffn, " (at most ", kServedFfnMax, " is)");
  }
  if (sizes.vocabulary > kServedVocabularyMax) {
    return refuse("a vocabulary of ", sizes.vocabulary, " (at most ", kServedVocabularyMax, " is)");
  }
  if (sizes.pages > kServedPagesMax) {
    return refuse(sizes.pages, " pages of ", kBlockTokens, " tokens in a step, for as many ",
                  "requests as may run with the whole context (at most ", kServedPagesMax,
                  " are: lower --running-requests or --context-tokens)");
  }
  return absl::OkStatus();
}

}  // namespace lorica::cuda
