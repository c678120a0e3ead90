"""Writes tests/data/schemas.jsonl: JSON schemas of many kinds, one a line, which answers must fit.

    python3 tests/data/reference/make_schemas.py > tests/data/schemas.jsonl

The first part is written by hand, the second is put together from a seed. No network, nothing
besides Python itself.
"""
import json
import random


def obj(properties, required=None, **more):
    schema = {"type": "object", "properties": properties}
    if required is None:
        required = list(properties)
    if required:
        schema["required"] = required
    return schema | more


STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
SHORT = {"type": "string", "maxLength": 12}


def scalars():
    yield from ({"type": kind} for kind in ("string", "integer", "number", "boolean", "null"))
    for low, high in ((0, 1), (0, 9), (1, 12), (-5, 5), (10, 99), (100, 1234), (-1000, -17), (7, 7),
                      (0, 2**31 - 1), (-2**31, 2**31 - 1), (999, 10001)):
        yield {"type": "integer", "minimum": low, "maximum": high}
    for key, bound in (("minimum", 3), ("minimum", -40), ("maximum", 55), ("maximum", -3),
                       ("exclusiveMinimum", 0), ("exclusiveMaximum", 100)):
        yield {"type": "integer", key: bound}
    for low, high in ((0, 1), (-1, 1), (0.5, 2.25), (-273.15, 1000), (10, 20)):
        yield {"type": "number", "minimum": low, "maximum": high}
    yield {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    yield {"type": "integer", "multipleOf": 5}
    yield {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 25}
    for low, high in ((0, 5), (1, 1), (3, 8), (10, 40), (0, 0)):
        yield {"type": "string", "minLength": low, "maxLength": high}
    yield {"type": "string", "minLength": 4}
    for value in ("a", "with \"quotes\" and \\", "line\nbreak", "grün ✓", 0, -1.5, True, None,
                  [1, "x"], {"k": [None]}):
        yield {"const": value}
    yield {"enum": ["red", "green", "blue"]}
    yield {"enum": [1, 2, 3], "type": "integer"}
    yield {"enum": ["mixed", 1, None, True, 2.5, ["list"], {"an": "object"}]}
    yield {"type": "string", "enum": ["a", "ab", "abc", "abcd"]}
    yield {"type": ["string", "null"]}
    yield {"type": ["integer", "boolean"]}
    yield {"type": ["number", "string", "null"], "maxLength": 6, "minimum": 0}


def strings():
    for pattern in ("^[a-z]+$", "^[A-Z]{2}[0-9]{4}$", "^(yes|no|maybe)$", r"^\d{3}-\d{4}$",
                    "^a*b+c?$", r"^\w{2,6}$", "^[^x]{1,4}$", r"^#[0-9a-f]{6}$", "^(ab|cd)*$",
                    r"^\+?[1-9]\d{1,14}$",
                    "^v[0-9]+(\\.[0-9]+){2}$", "^[a-z][a-z0-9_]*$", "^(?:one|two) (?:three|four)$",
                    "^[äöü]{1,3}$", r"^\S{1,5}$", "^.{2}$", "^$"):
        yield {"type": "string", "pattern": pattern}
    for name in ("date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "uri", "hostname",
                 "duration", "uri-reference"):
        yield {"type": "string", "format": name}
    yield {"type": "string", "format": "of-no-validator"}


def lists():
    yield {"type": "array", "items": STRING | {"maxLength": 4}, "maxItems": 5}
    yield {"type": "array", "items": INTEGER, "minItems": 2, "maxItems": 4}
    yield {"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3}
    yield {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 0}
    yield {"type": "array", "items": {"type": "array", "items": NUMBER, "maxItems": 2},
           "maxItems": 3}
    yield {"type": "array", "prefixItems": [STRING | {"maxLength": 3}, INTEGER], "items": False}
    yield {"type": "array", "prefixItems": [{"const": "head"}], "items": INTEGER, "minItems": 1,
           "maxItems": 4}
    yield {"type": "array", "items": obj({"id": INTEGER, "ok": {"type": "boolean"}}), "maxItems": 3}
    yield {"items": {"type": "null"}, "maxItems": 4}
    yield {"type": "array", "items": {"anyOf": [INTEGER, {"type": "null"}]}, "minItems": 1,
           "maxItems": 5}


def objects():
    yield {"type": "object"}
    yield {"type": "object", "additionalProperties": False}
    yield {"type": "object", "additionalProperties": {"type": "integer"}}
    yield {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2}
    yield obj({})
    yield obj({"a": INTEGER})
    yield obj({"a": INTEGER, "b": SHORT, "c": {"type": "boolean"}})
    yield obj({"a": INTEGER, "b": SHORT, "c": {"type": "boolean"}}, [])
    yield obj({"a": INTEGER, "b": SHORT, "c": {"type": "boolean"}}, ["b"])
    yield obj({"a": INTEGER, "b": SHORT, "c": {"type": "boolean"}}, ["c"])
    yield obj({"a": INTEGER, "b": SHORT, "c": {"type": "boolean"}}, ["a", "c"])
    yield obj({"z": INTEGER, "m": INTEGER, "a": INTEGER})
    yield obj({"key with \"quotes\"": INTEGER, "ключ": SHORT, "": {"type": "null"}})
    yield obj({"a": INTEGER}, [], additionalProperties=False)
    yield obj({"a": INTEGER, "b": INTEGER, "c": INTEGER}, [], minProperties=2)
    yield obj({"a": INTEGER, "b": INTEGER, "c": INTEGER}, [], maxProperties=1)
    yield obj({"outer": obj({"inner": obj({"value": {"enum": ["deep"]}})})})
    yield obj({"list": {"type": "array", "items": INTEGER, "maxItems": 3}, "n": {"type": "null"}})
    yield {"properties": {"untyped": {"type": "boolean"}}, "required": ["untyped"]}
    yield {"type": "object", "propertyNames": {"pattern": "^[a-z]{1,4}$"},
           "additionalProperties": INTEGER, "maxProperties": 3}
    yield {"type": "object", "patternProperties": {"^n_[a-z]{1,3}$": INTEGER},
           "additionalProperties": False}
    yield obj({"a": INTEGER}, additionalProperties=True)
    yield obj({"a": INTEGER, "b": INTEGER}, [], additionalProperties=SHORT)
    yield obj({"any": {}})
    yield obj({"any": True})


def combined():
    yield {"anyOf": [INTEGER, {"type": "boolean"}]}
    yield {"anyOf": [obj({"a": INTEGER}), obj({"b": SHORT})]}
    yield {"anyOf": [{"const": 1}, {"const": 2}, {"type": "null"}]}
    yield {"oneOf": [INTEGER, STRING]}
    yield {"oneOf": [obj({"k": {"const": "a"}, "v": INTEGER}),
                     obj({"k": {"const": "b"}, "w": SHORT})]}
    yield {"oneOf": [{"const": "a"}, {"const": "b"}]}
    yield {"allOf": [obj({"only": INTEGER})]}
    yield obj({"maybe": {"anyOf": [SHORT, {"type": "null"}]}})
    yield obj({"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}})
    yield {"$defs": {"n": INTEGER}, "$ref": "#/$defs/n"}
    yield {"$defs": {"p": obj({"x": INTEGER, "y": INTEGER})}, "type": "array",
           "items": {"$ref": "#/$defs/p"}, "maxItems": 2}
    yield {"definitions": {"s": SHORT}, "type": "object",
           "properties": {"a": {"$ref": "#/definitions/s"}, "b": {"$ref": "#/definitions/s"}},
           "required": ["a", "b"]}
    yield {"$defs": {"tree": obj({"v": {"type": "integer", "minimum": 0, "maximum": 9},
                                  "children": {"type": "array", "items": {"$ref": "#/$defs/tree"},
                                               "maxItems": 2}}, ["v"])}, "$ref": "#/$defs/tree"}
    yield {"$defs": {"list": {"anyOf": [{"type": "null"},
                                        obj({"head": {"type": "boolean"},
                                             "tail": {"$ref": "#/$defs/list"}})]}},
           "$ref": "#/$defs/list"}
    yield obj({"self": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}})
    yield {"allOf": [{"$ref": "#/$defs/one"}], "$defs": {"one": {"enum": ["only"]}}}


def real_ones():
    yield obj({"category": {"enum": ["billing", "bug", "feature", "other"]},
               "priority": {"enum": ["low", "normal", "high"]}, "summary": SHORT})
    yield obj({"name": SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 150},
               "email": {"type": "string", "format": "email"}}, ["name", "age"])
    yield obj({"invoice": {"type": "string", "pattern": "^INV-[0-9]{6}$"},
               "lines": {"type": "array", "minItems": 1, "maxItems": 2,
                         "items": obj({"sku": {"type": "string", "pattern": "^[A-Z]{3}$"},
                                       "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
                                       "price": {"type": "number", "minimum": 0,
                                                 "maximum": 1000}})},
               "paid": {"type": "boolean"}})
    yield obj({"function": {"const": "get_weather"},
               "arguments": obj({"city": SHORT, "unit": {"enum": ["C", "F"]}}, ["city"])})
    yield {"title": "Answer", "description": "as pydantic writes it", "type": "object",
           "properties": {"verdict": {"title": "Verdict", "type": "boolean"},
                          "score": {"title": "Score", "type": "number", "minimum": 0, "maximum": 1},
                          "note": {"anyOf": [SHORT, {"type": "null"}], "default": None,
                                   "title": "Note"}},
           "required": ["verdict", "score"]}
    yield {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": {
        "Color": {"enum": ["red", "green"], "title": "Color", "type": "string"}},
        "type": "object", "properties": {"c": {"$ref": "#/$defs/Color", "description": "which"}},
        "required": ["c"], "additionalProperties": False}
    yield obj({"from": {"type": "string", "format": "date"},
               "to": {"type": "string", "format": "date"},
               "nights": {"type": "integer", "minimum": 1, "maximum": 30}})
    yield obj({"labels": {"type": "array", "items": {"enum": ["PER", "LOC", "ORG"]}, "maxItems": 4},
               "spans": {"type": "array", "maxItems": 2,
                         "items": {"type": "array", "prefixItems": [INTEGER, INTEGER],
                                   "items": False, "minItems": 2}}})
    yield obj({"thought": SHORT, "action": {"enum": ["search", "stop"]},
               "input": {"type": ["string", "null"], "maxLength": 8}})


class Maker:
    """Schemas put together at random."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def scalar(self):
        kind = self.random.randrange(7)
        if kind == 0:
            return {"type": "string", "maxLength": self.random.randint(1, 10)}
        if kind == 1:
            low = self.random.randint(-500, 500)
            return {"type": "integer", "minimum": low,
                    "maximum": low + self.random.randint(0, 5000)}
        if kind == 2:
            return {"type": self.random.choice(["boolean", "null", "integer", "number"])}
        if kind == 3:
            words = self.random.sample(["up", "down", "left", "right", "ü", "a b", "0"], 3)
            return {"enum": words + [self.random.randint(0, 9)]}
        if kind == 4:
            return {"const": self.random.choice(["k", 17, None, False, "x y"])}
        if kind == 5:
            n = self.random.randint(1, 4)
            return {"type": "string", "pattern": "^" + self.random.choice(
                ["[a-c]{%d}", "[0-9]{1,%d}", "(x|yz){%d}"]) % n + "$"}
        return {"type": [self.random.choice(["integer", "boolean"]), "null"]}

    def schema(self, depth):
        kind = self.random.randrange(10) if depth > 0 else 0
        if kind < 3:
            return self.scalar()
        if kind < 7:
            names = self.random.sample(["id", "name", "tags", "x", "größe", "is ok", "_p"],
                                       self.random.randint(1, 4))
            schema = obj({name: self.schema(depth - 1) for name in names},
                         [name for name in names if self.random.random() < 0.7])
            if self.random.random() < 0.3:
                schema["additionalProperties"] = False
            return schema
        if kind < 9:
            low = self.random.randint(0, 2)
            return {"type": "array", "items": self.schema(depth - 1), "minItems": low,
                    "maxItems": low + self.random.randint(0, 2)}
        return {"anyOf": [self.schema(depth - 1), self.schema(depth - 1)]}


def main():
    schemas = []
    for part in (scalars, strings, lists, objects, combined, real_ones):
        schemas.extend(part())
    maker = Maker(7)
    while len(schemas) < 260:
        schema = maker.schema(3)
        if schema not in schemas:
            schemas.append(schema)
    for schema in schemas:
        print(json.dumps(schema, ensure_ascii=False))


main()
