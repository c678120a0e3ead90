"""Writes tests/data/nfc_cases.json, [text, its NFC] pairs, from Python's Unicode database:

    python3 tests/server/text/make_nfc_cases.py > tests/data/nfc_cases.json
"""

import json
import random
import unicodedata

MARKS = [c for c in range(0x300, 0x1F000) if unicodedata.combining(chr(c))]
DECOMPOSED = [c for c in range(0xC0, 0x30000)
              if unicodedata.normalize("NFD", chr(c)) != chr(c)]
HANGUL = [*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A7, 0x11C3)]
PLAIN = [*range(0x20, 0x7F), 0x9C7, 0x9BE, 0x65E5, 0x1F600]


def case(rng):
    pools = [MARKS, DECOMPOSED, HANGUL, PLAIN]
    text = "".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(1, 8)))
    if rng.random() < 0.5:
        text = unicodedata.normalize("NFD", text)
    return [text, unicodedata.normalize("NFC", text)]


rng = random.Random(2026)
print("[" + ",\n".join(json.dumps(case(rng)) for _ in range(1000)) + "]")
