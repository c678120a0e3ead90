"""Writes unicode_tables.cc from Python's Unicode database:

    python3 server/text/unicode_tables.py > server/text/unicode_tables.cc

Every list is a run of small gaps: what a number adds to the one before it.
"""

import sys
import unicodedata

LAST = 0x110000
WHITE_SPACE = [0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
               0x2028, 0x2029, 0x202F, 0x205F, 0x3000]


def code_points():
    return (c for c in range(LAST) if not 0xD800 <= c < 0xE000)


def runs(members):
    """Consecutive code points as [gap since the last run, length] pairs."""
    out, end = [], 0
    for c in members:
        if out and c == end:
            out[-1] += 1
        else:
            out += [c - end, 1]
        end = c + 1
    return out


def category(*prefixes):
    return [c for c in code_points() if unicodedata.category(chr(c)).startswith(prefixes)]


def word_marks():
    """Beyond letters and numbers: what a regular expression's \\w takes."""
    joiners, circled = [0x200C, 0x200D], [*range(0x24B6, 0x24EA)]
    squared = [*range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)]
    return sorted(category("M", "Pc") + joiners + circled + squared)


def combining_classes():
    """[gap, length, class] of code points with equal non-zero classes."""
    out, end, last = [], 0, 0
    for c in code_points():
        k = unicodedata.combining(chr(c))
        if not k:
            continue
        if k == last and c == end:
            out[-2] += 1
        else:
            out += [c - end, 1, k]
        end, last = c + 1, k
    return out


def decompositions():
    """[gap, first, second]; second 0: one for one; second negative: never composed."""
    out, last = [], 0
    for c in code_points():
        text = unicodedata.decomposition(chr(c))
        if not text or text.startswith("<") or 0xAC00 <= c < 0xD7A4:
            continue
        parts = [int(p, 16) for p in text.split()]
        first, second = parts[0], parts[1] if len(parts) > 1 else 0
        if second and unicodedata.normalize("NFC", chr(c)) != chr(c):
            second = -second
        out += [c - last, first, second]
        last = c
    return out


def emit(name, numbers):
    print(f"\nconst int32_t {name}[] = {{")
    line = " "
    for n in numbers:
        if len(line) + len(str(n)) + 2 > 100:
            print(line)
            line = " "
        line += f" {n},"
    print(line + "\n};")
    print(f"const int {name}Size = {len(numbers)};")


print(f"// Written by unicode_tables.py from Unicode {unicodedata.unidata_version}; "
      "see unicode_tables.h.\n// clang-format off\n"
      '#include "server/text/unicode_tables.h"\n\nnamespace lorica::unicode {')
emit("kLetterRuns", runs(category("L")))
emit("kNumberRuns", runs(category("N")))
emit("kSpaceRuns", runs(WHITE_SPACE))
emit("kWordMarkRuns", runs(word_marks()))
emit("kCombiningRuns", combining_classes())
emit("kDecompositions", decompositions())
print("\n}  // namespace lorica::unicode")
sys.stdout.flush()
