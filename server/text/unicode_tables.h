// Unicode data as flat lists, written by unicode_tables.py; unicode.cc gives them meaning.
//
// Runs are pairs: the gap since the end of the last run, the run's length. Combining
// runs add the canonical combining class. Decompositions are triples: the gap since
// the last code point, what it becomes first, and second (0: nothing; negative: the
// pair is never composed again). Hangul syllables are left to arithmetic.
#pragma once

#include <cstdint>

namespace lorica::unicode {

extern const int32_t kLetterRuns[];
extern const int kLetterRunsSize;
extern const int32_t kNumberRuns[];
extern const int kNumberRunsSize;
extern const int32_t kSpaceRuns[];
extern const int kSpaceRunsSize;
extern const int32_t kWordMarkRuns[];
extern const int kWordMarkRunsSize;
extern const int32_t kCombiningRuns[];
extern const int kCombiningRunsSize;
extern const int32_t kDecompositions[];
extern const int kDecompositionsSize;

}  // namespace lorica::unicode
