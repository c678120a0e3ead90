#!/usr/bin/env python3
"""What the first use of a new adapter does to streams that are running.

    stall.py [--bin build/tests/bin] [--repetitions 9]

Eight base streams decode; after a while one request names an adapter that nobody has
loaded (rank 16, all linears, 9.8 MB). The longest gap between tokens of the eight, from
the newcomer's arrival to its first token, is compared with the longest gap of the same
streams in the same span of steps of a run without the newcomer. The newcomer's own prefill
chunk is in the run without loads too: there it names an adapter that is resident.
Prints a line for each repetition and the median of the ratios (must: at most 1.5).
"""

import argparse
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from side_by_side import Lorica, random_ids  # noqa: E402

STREAMS, TOKENS, PROMPT = 8, 120, 16


class Stream(threading.Thread):
    """One `lorica generate --json`-stream: the arrival time of every token."""

    def __init__(self, server, adapter, ids, tokens):
        super().__init__()
        self.server, self.times = server, []
        self.request = {
            "adapter_id": adapter,
            "token_ids": ids,
            "max_tokens": tokens,
            "ignore_eos": True,
        }

    def run(self):
        for chunk in self.server.stub.GenerateStream(self.server.message(self.request)):
            now = time.monotonic()
            self.times += [now] * len(chunk.token_ids)


class Server(Lorica):
    def __init__(self, arguments, folder, stubs):
        super().__init__(arguments, folder)
        import grpc

        sys.path.insert(0, str(stubs))
        from lorica.v1 import inference_pb2, inference_pb2_grpc

        self.messages = inference_pb2
        self.stub = inference_pb2_grpc.InferenceServiceStub(grpc.insecure_channel(self.address))

    def message(self, fields):
        return self.messages.GenerateRequest(**fields)


def longest_gap(streams, begin, end):
    gaps = []
    for stream in streams:
        times = [t for t in stream.times if begin - 0.2 <= t <= end + 0.2]
        gaps += [later - earlier for earlier, later in zip(times, times[1:])]
    return max(gaps)


def one_run(server, source, adapter):
    streams = [Stream(server, "", random_ids(source, PROMPT), TOKENS) for _ in range(STREAMS)]
    for stream in streams:
        stream.start()
    while min(len(stream.times) for stream in streams) < 40:
        time.sleep(0.001)
    newcomer = Stream(server, adapter, random_ids(source, PROMPT), 4)
    begin = time.monotonic()
    newcomer.start()
    newcomer.join()
    for stream in streams:
        stream.join()
    return longest_gap(streams, begin, newcomer.times[0]), newcomer.times[0] - begin


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bin", default=str(HERE.parent.parent / "build/tests/bin"))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parser.add_argument("--model", default=f"{cache}/lorica/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    source = random.Random(5)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        stubs = folder / "stubs"
        stubs.mkdir()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                "-I",
                HERE.parent.parent / "proto",
                f"--python_out={stubs}",
                f"--grpc_python_out={stubs}",
                HERE.parent.parent / "proto/lorica/v1/inference.proto",
            ],
            check=True,
        )
        subprocess.run(
            [
                sys.executable,
                HERE / "make_adapters.py",
                folder / "adapters",
                "--count",
                str(arguments.repetitions + 1),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        server = Server(arguments, folder, stubs)
        try:
            one_run(server, source, "r0000")  # r0000 is resident from here on
            ratios = []
            for number in range(1, arguments.repetitions + 1):
                quiet, _ = one_run(server, source, "r0000")
                loading, ttft = one_run(server, source, f"r{number:04d}")
                ratios.append(loading / quiet)
                print(
                    f"{number}: longest gap {loading * 1e3:.1f} ms while loading, "
                    f"{quiet * 1e3:.1f} ms without: {ratios[-1]:.2f}; "
                    f"first token of the newcomer after {ttft * 1e3:.0f} ms"
                )
            print(f"median ratio {statistics.median(ratios):.2f} (must: at most 1.5)")
        finally:
            server.process.terminate()
            server.process.wait()


if __name__ == "__main__":
    main()
