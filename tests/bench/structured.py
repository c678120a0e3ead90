#!/usr/bin/env python3
"""What it costs that answers have a form.

    structured.py [--bin build/tests/bin] [--repetitions 11] [--json FILE]

Eight base streams decode as many tokens each, in turns: all of them free, and half of them held
to a JSON schema that needs more tokens than they get. Compared is what all eight make together, in
tokens a second from the first token of the last stream to the last token of the first. Prints
a line for each pair of runs and the median of the ratios (must: at least 0.97). About a
minute and a half.

Needs grpcio: makes ~/.cache/lorica/python-client as tests/clients does, and uses it.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
from quiet import Others  # noqa: E402
from side_by_side import random_ids  # noqa: E402
from stall import Server, Stream, make_stubs, use_python_with_grpc  # noqa: E402

STREAMS, TOKENS, PROMPT = 8, 160, 16
TICKET = {
    "category": {"enum": ["billing", "bug", "feature", "other"]},
    "priority": {"type": "integer", "minimum": 1, "maximum": 5},
    "summary": {"type": "string", "minLength": 20, "maxLength": 200},
    "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 6},
}
TICKET = {"type": "object", "properties": TICKET, "required": list(TICKET)}
SCHEMA = {"type": "array", "items": TICKET, "minItems": 100}


class ShapedStream(Stream):
    def __init__(self, server, source, shaped):
        self.shaped = shaped
        super().__init__(server, "", source, TOKENS)

    def run(self):
        if self.shaped:
            self.request["ignore_eos"] = False
            self.request["response_format"] = {"json_schema": json.dumps(SCHEMA)}
        super().run()


def one_run(server, source, shaped):
    """Tokens a second of all streams together."""
    streams = [ShapedStream(server, source, i < shaped) for i in range(STREAMS)]
    for stream in streams:
        stream.finish()
        if len(stream.times) != TOKENS:
            raise SystemExit(f"a stream ended after {len(stream.times)} tokens")
    begin = max(stream.times[0] for stream in streams)
    end = min(stream.times[-1] for stream in streams)
    made = sum(sum(begin < at <= end for at in stream.times) for stream in streams)
    return made / (end - begin)


def measure(server, source, repetitions):
    rows = []
    for number in range(repetitions):
        order = [0, STREAMS // 2] if number % 2 == 0 else [STREAMS // 2, 0]
        with Others([server.process.pid]) as others:
            speed = {shaped: one_run(server, source, shaped) for shaped in order}
        free, shaped = speed[0], speed[STREAMS // 2]
        rows.append({"free": free, "shaped": shaped, "ratio": shaped / free})
        rows[-1]["others"] = others.share
        print(
            f"{number + 1}: {shaped:.1f} tok/s with half of the streams held to a schema, "
            f"{free:.1f} free: {shaped / free:.3f}; others used {others.share:.1%}",
            flush=True,
        )
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bin", default=str(ROOT / "build/tests/bin"))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parser.add_argument("--model", default=f"{cache}/lorica/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write all measurements there")
    arguments = parser.parse_args()
    use_python_with_grpc()
    source = random.Random(5)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "adapters").mkdir()
        stubs = folder / "stubs"
        stubs.mkdir()
        make_stubs(stubs)
        server = Server(arguments, folder, stubs)
        try:
            one_run(server, source, STREAMS // 2)  # compiles the schema
            rows = measure(server, source, arguments.repetitions)
        finally:
            server.process.terminate()
            server.process.wait()
    median = statistics.median(row["ratio"] for row in rows)
    print(f"median of the ratios: {median:.3f} (must: at least 0.97)")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
