// tokenizer.json: a tokenizer that works, or an error.
#include "kernels/check.h"
#include "server/text/tokenizer.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lorica;
  const auto tokenizer = MakeTokenizerFromJson({reinterpret_cast<const char*>(data), size});
  if (!tokenizer.ok()) return 0;
  const char* const texts[] = {"", "The quick brown fox", "  a\n\n\tb 12345 don't",
                               "\xc3\xa9\xf0\x9f\x98\x80", "<|im_start|>user<|im_end|>"};
  for (const char* text : texts) {
    for (const bool special : {false, true}) {
      std::vector<int32_t> ids;
      if (!(*tokenizer)->Encode(text, special, &ids).ok()) continue;
      size_t bytes = 0;
      for (const int32_t id : ids) {
        LORICA_CHECK(id >= 0 && id < (*tokenizer)->size(), id);
        bytes += (*tokenizer)->TokenBytes(id).size();
      }
      LORICA_CHECK(special || ids.empty() || bytes > 0);
    }
  }
  (void)(*tokenizer)->TokenBytes((*tokenizer)->size());
  (void)(*tokenizer)->TokenBytes(-1);
  return 0;
}
