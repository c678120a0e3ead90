"""Reads lines of {"schema": ..., "text": ...} or {"regex": ..., "text": ...}; says which texts do
not fit. The last line is how many were looked at. Exits 77 without the jsonschema package."""
import json
import re
import sys

try:
    from jsonschema import Draft202012Validator
except ImportError:
    print("the Python package jsonschema is not there")
    sys.exit(77)


def fault(case):
    if "regex" in case:
        return None if re.fullmatch(case["regex"], case["text"]) else "no match"
    try:
        answer = json.loads(case["text"])
    except ValueError as error:
        return f"not JSON: {error}"
    errors = list(Draft202012Validator(case["schema"]).iter_errors(answer))
    return errors[0].message if errors else None


count = 0
for line in sys.stdin:
    case = json.loads(line)
    what = fault(case)
    count += 1
    if what is not None:
        print(json.dumps(case), what)
print(count)
