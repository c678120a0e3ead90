#!/usr/bin/env python3
"""What the first use of a new adapter does to streams that are running.

    stall.py [--bin build/tests/bin] [--repetitions 11] [--json FILE]

Eight base streams decode, twice: once by themselves, once while one more request names an
adapter that nobody has loaded (rank 16, all linears, 9.8 MB). A step's time is the gap
between two tokens of a stream; compared are the longest of both runs, over the same span of
tokens. The step that holds the newcomer's prompt is left out: a prompt costs its chunk
whether its adapter was there or not. What all eight streams saw is what the server did, so
each figure is the median of the eight. Prints a line for each repetition and the median of
the ratios (must: at most 1.5). About a minute and a half.

Needs grpcio: makes ~/.cache/lorica/python-client as tests/clients does, and uses it.
"""

import argparse
import json
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
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
from quiet import Others  # noqa: E402
from side_by_side import Lorica, random_ids  # noqa: E402

STREAMS, TOKENS, PROMPT = 8, 120, 16
WARM_TOKENS = 24  # of every stream, before the newcomer comes and gaps count


class Stream(threading.Thread):
    """One streamed request and the arrival time of each of its tokens."""

    def __init__(self, server, adapter, source, tokens):
        super().__init__()
        self.server, self.times, self.error = server, [], None
        self.request = {"adapter_id": adapter, "token_ids": random_ids(source, PROMPT)}
        self.request |= {"max_tokens": tokens, "ignore_eos": True}
        self.start()

    def run(self):
        try:
            for chunk in self.server.stream(self.request):
                self.times += [time.monotonic()] * len(chunk.token_ids)
        except Exception as error:  # grpc.RpcError; shown by finish()
            self.error = error

    def finish(self):
        self.join()
        if self.error is not None:
            raise SystemExit(f"a stream failed: {self.error}")


class Server(Lorica):
    def __init__(self, arguments, folder, stubs):
        super().__init__(arguments, folder)
        import grpc

        sys.path.insert(0, str(stubs))
        from lorica.v1 import inference_pb2, inference_pb2_grpc

        stub = inference_pb2_grpc.InferenceServiceStub(grpc.insecure_channel(self.address))
        message = inference_pb2.GenerateRequest
        self.stream = lambda request: stub.GenerateStream(message(**request))


def longest_gap(times, prompt_end):
    """Seconds; without the gap that ends with the step of the newcomer's prompt."""
    times = times[WARM_TOKENS:]
    gaps = list(zip(times, times[1:]))
    if prompt_end is not None:
        gaps.remove(min(gaps, key=lambda gap: abs(gap[1] - prompt_end)))
    return max(later - earlier for earlier, later in gaps)


def one_run(server, source, adapter):
    """(longest step, newcomer's time to its first token), the latter None without newcomer"""
    streams = [Stream(server, "", source, TOKENS) for _ in range(STREAMS)]
    while min(len(stream.times) for stream in streams) < WARM_TOKENS + 1:
        if any(stream.error for stream in streams):
            break
        time.sleep(0.005)
    begin, newcomer = time.monotonic(), None
    if adapter is not None:
        newcomer = Stream(server, adapter, source, 4)
        newcomer.finish()
    for stream in streams:
        stream.finish()
    first = newcomer.times[0] if newcomer else None
    if newcomer and first > min(stream.times[-1] for stream in streams):
        raise SystemExit("the adapter came when the streams had ended: the machine is too busy")
    longest = statistics.median(longest_gap(stream.times, first) for stream in streams)
    return longest, first - begin if newcomer else None


def use_python_with_grpc():
    try:
        import grpc_tools  # noqa: F401

        return
    except ModuleNotFoundError:
        pass
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder, wanted = cache / "lorica/python-client", ROOT / "tests/clients/requirements.txt"
    python, made_from = folder / "bin/python", folder / "made-from.txt"
    if not made_from.exists() or made_from.read_text() != wanted.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", wanted], check=True)
        made_from.write_text(wanted.read_text())
    os.execv(python, [python, *sys.argv])


def make_stubs(folder):
    proto = ROOT / "proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", proto]
    command += [f"--python_out={folder}", f"--grpc_python_out={folder}"]
    subprocess.run([*command, *sorted((proto / "lorica/v1").glob("*.proto"))], check=True)


def measure(server, source, repetitions):
    rows = []
    for number in range(repetitions):
        with Others([server.process.pid]) as others:
            without, _ = one_run(server, source, None)
            loading, ttft = one_run(server, source, f"r{number:04d}")
        rows.append({"without_ms": without * 1e3, "loading_ms": loading * 1e3})
        rows[-1] |= {"ratio": loading / without, "ttft_ms": ttft * 1e3, "others": others.share}
        print(
            f"{number + 1}: longest step {loading * 1e3:.1f} ms while loading, "
            f"{without * 1e3:.1f} ms without: {loading / without:.2f}; first token of the "
            f"newcomer after {ttft * 1e3:.0f} ms; others used {others.share:.1%}",
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
        stubs = folder / "stubs"
        stubs.mkdir()
        make_stubs(stubs)
        make = [sys.executable, HERE / "make_adapters.py", folder / "adapters"]
        make += ["--count", str(arguments.repetitions)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        server = Server(arguments, folder, stubs)
        try:
            one_run(server, source, None)  # the first use of everything else
            rows = measure(server, source, arguments.repetitions)
        finally:
            server.process.terminate()
            server.process.wait()
    median = statistics.median(row["ratio"] for row in rows)
    print(f"median of the ratios: {median:.2f} (must: at most 1.5)")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
