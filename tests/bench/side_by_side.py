#!/usr/bin/env python3
"""Lorica beside llama.cpp on the same machine, in one run, in turns.

    side_by_side.py --llama-bin llama.cpp/build/bin [--bin build/tests/bin] [--quick]
                    [--rounds 5] [--cases one,eight,...] [--json FILE]

Each round measures every case on both, one directly after the other; what is printed is
the median of the rounds' ratios, the medians themselves, the floors and how much of the
machine others used meanwhile. Times on shared machines move; ratios of neighbours in time
move less. Both sides are whole servers on loopback with two threads, the same GGUF, random
prompts, greedy. About five minutes on a quiet machine; --quick is a try of one minute.

  one           1 base stream, prompt 16, 96 tokens: all tokens over the time to the last
  one_bare      the same here; there llama-bench, the library without a server
  eight         8 base streams
  prompt        1 prompt of 512 tokens, 1 token: prompt tokens over the time to the first
  prompt_bare   the same here; there llama-bench
  adapters      8 streams of 8 different rank-16 adapters; there 8 streams of ONE adapter
                (it cannot share a batch between adapters)
  each          the same here; there its 8 different ones; first three rounds only

llama.cpp's threads wait for each other spinning. Where others want the CPU it falls to a
token or two a second, so a measurement has a time limit and says what it saw when it ends.

Needs Python's own library; loricad, lorica and roofs in --bin; llama-server and
llama-bench in --llama-bin, built with GGML_NATIVE=ON.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))
from quiet import Others  # noqa: E402

STREAMS, PROMPT, LONG_PROMPT = 8, 16, 512
START_SECONDS = 60  # a server may take to be ready
CASE_SECONDS = 90  # a measurement may take; the slowest needs 13 s on a quiet machine
EACH_ROUNDS = 3

# Must and aim, as ratios.
GOALS = {
    "one": (0.8, 1.3),
    "one_bare": (0.8, 1.3),
    "eight": (1.2, 2.0),
    "prompt": (1.2, 2.0),
    "prompt_bare": (1.2, 2.0),
    "adapters": (1.0, 1.6),
    "each": None,
}
# SmolLM2-135M Q4_1: what a step reads and multiplies, and what a rank-16 adapter adds.
WEIGHT_BYTES, ADAPTER_BYTES = 96.5e6, 9.76e6
PRODUCTS, HEAD_PRODUCTS, ADAPTER_PRODUCTS = 134.5e6, 28.3e6, 4.88e6
CHUNK = 256  # rows of a prompt that share one reading of the weights


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def random_ids(source, count):
    return [source.randrange(1000, 48000) for _ in range(count)]


def wait_for(ready, what, process, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if ready():
            return
        time.sleep(0.1)
    raise SystemExit(f"{what} did not start: {pathlib.Path(log).read_text()[-500:]}")


class Lorica:
    def __init__(self, arguments, folder):
        self.bin, self.folder = arguments.bin, folder
        self.address = f"127.0.0.1:{free_port()}"
        log = folder / "loricad.log"
        command = [f"{arguments.bin}/loricad", "--model", arguments.model]
        command += ["--adapters-dir", folder / "adapters", "--data-dir", folder / "data"]
        command += ["--grpc-address", self.address, "--threads", str(arguments.threads)]
        self.process = subprocess.Popen(command, stdout=open(log, "w"), stderr=subprocess.STDOUT)
        wait_for(lambda: self.client("status").returncode == 0, "loricad", self.process, log)

    def client(self, *command):
        return subprocess.run(
            [f"{self.bin}/lorica", "--server", self.address, *command],
            capture_output=True,
            text=True,
            timeout=CASE_SECONDS,
        )

    def run(self, adapters, prompt, tokens, source):
        """(seconds to the first token, to the last, tokens) of each stream."""
        requests = self.folder / "requests.jsonl"
        with open(requests, "w") as file:
            for adapter in adapters:
                request = {"token_ids": random_ids(source, prompt), "max_tokens": tokens}
                request |= {"adapter_id": adapter or "", "temperature": 0, "ignore_eos": True}
                file.write(json.dumps(request) + "\n")
        concurrency = ("--concurrency", str(len(adapters)))
        done = self.client("batch", "--file", requests, *concurrency)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        failed = [result for result in results if "error" in result]
        if failed or len(results) != len(adapters):
            raise SystemExit(f"loricad failed: {failed[:1]} {done.stderr[-500:]}")
        seconds = lambda result, name: result["timings"][name] / 1e3
        return [
            (seconds(result, "ttft_ms"), seconds(result, "total_ms"), len(result["token_ids"]))
            for result in results
        ]


class LlamaCpp:
    def __init__(self, arguments, folder):
        self.bin, self.model, self.threads = arguments.llama_bin, arguments.model, arguments.threads
        self.port = free_port()
        log = folder / "llama.log"
        loras = ",".join(str(path) for path in sorted((folder / "adapters").glob("*.gguf")))
        command = [f"{self.bin}/llama-server", "-m", self.model, "-t", str(self.threads)]
        command += ["-np", str(STREAMS), "-c", "8192", "--port", str(self.port), "-cram", "0"]
        command += ["--lora-init-without-apply", "--lora", loras]
        self.process = subprocess.Popen(command, stdout=open(log, "w"), stderr=subprocess.STDOUT)
        wait_for(self.healthy, "llama-server", self.process, log)

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=CASE_SECONDS)
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"llama-server failed: {answer.status} {text[:500]}")
        return json.loads(text)

    def healthy(self):
        try:
            self.request("GET", "/health")
            return True
        except (OSError, SystemExit):
            return False

    def one(self, body):
        start = time.monotonic()
        timings = self.request("POST", "/completion", body)["timings"]
        return timings["prompt_ms"] / 1e3, time.monotonic() - start, timings["predicted_n"]

    def run(self, adapters, prompt, tokens, source):
        bodies = []
        for adapter in adapters:
            body = {"prompt": random_ids(source, prompt), "n_predict": tokens}
            body |= {"temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
            scale = 0.0 if adapter is None else 1.0
            bodies.append(body | {"lora": [{"id": adapter or 0, "scale": scale}]})
        with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(self.one, bodies))

    def bare(self, prompt, tokens):
        """tok/s of the library alone."""
        command = [f"{self.bin}/llama-bench", "-m", self.model, "-t", str(self.threads)]
        command += ["-p", str(prompt), "-n", str(tokens), "-r", "1", "-o", "json"]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=CASE_SECONDS
        )
        return json.loads(done.stdout)[0]["avg_ts"]


def rate(results):
    """All tokens over the time to the last byte of the last stream."""
    return sum(count for _, _, count in results) / max(total for _, total, _ in results)


def first_rate(results):
    return LONG_PROMPT / results[0][0]


def make_cases(ours, theirs, source, tokens):
    """For each case, what measures it here and there."""
    names = [f"r{index:04d}" for index in range(STREAMS)]
    base, numbers = [None] * STREAMS, list(range(STREAMS))
    one = lambda: rate(ours.run([None], PROMPT, tokens, source))
    prompt = lambda: first_rate(ours.run([None], LONG_PROMPT, 1, source))
    different = lambda: rate(ours.run(names, PROMPT, tokens, source))
    there = lambda adapters: lambda: rate(theirs.run(adapters, PROMPT, tokens, source))
    return {
        "one": (one, there([None])),
        "one_bare": (one, lambda: theirs.bare(0, tokens)),
        "eight": (lambda: rate(ours.run(base, PROMPT, tokens, source)), there(base)),
        "prompt": (prompt, lambda: first_rate(theirs.run([None], LONG_PROMPT, 1, source))),
        "prompt_bare": (prompt, lambda: theirs.bare(LONG_PROMPT, 0)),
        "adapters": (different, there([0] * STREAMS)),
        "each": (different, there(numbers)),
    }


def measure(arguments, ours, theirs, cases):
    """rows[case] = {"lorica": tok/s of the rounds, "llama_cpp": ..., "others": CPU shares}"""
    pids = (ours.process.pid, theirs.process.pid)
    rows = {case: {"lorica": [], "llama_cpp": [], "others": []} for case in cases}
    for number in range(arguments.rounds):
        for case, sides in cases.items():
            if case == "each" and number >= EACH_ROUNDS:
                continue
            for side, work in zip(("lorica", "llama_cpp"), sides):
                with Others(pids) as others:
                    rows[case][side].append(measured(work, f"{case} of {side}", pids))
                rows[case]["others"].append(others.share)
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    return rows


def measured(work, what, pids):
    others = Others(pids)
    with others:
        try:
            return work()
        except (TimeoutError, subprocess.TimeoutExpired):
            pass
    raise SystemExit(
        f"{what} took more than {CASE_SECONDS} s, others used {others.share:.0%} of the machine: "
        "measure when it is quiet"
    )


def measure_roofs(arguments):
    """(bytes a second, floating-point operations a second)"""
    command = [f"{arguments.bin}/roofs", str(arguments.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    gigabytes, gigaflops = map(float, done.stdout.split())
    return gigabytes * 1e9, gigaflops * 1e9


def floors(case, bandwidth, flops):
    """tok/s if only memory, and if only fp32 arithmetic, were the limit."""
    if case.startswith("prompt"):
        chunks = LONG_PROMPT / CHUNK
        operations = 2 * (LONG_PROMPT * (PRODUCTS - HEAD_PRODUCTS) + HEAD_PRODUCTS)
        seconds = (chunks * WEIGHT_BYTES / bandwidth, operations / flops)
        return [LONG_PROMPT / limit for limit in seconds]
    streams = 1 if case.startswith("one") else STREAMS
    adapted = case in ("adapters", "each")
    read = WEIGHT_BYTES + adapted * STREAMS * ADAPTER_BYTES
    operations = 2 * (PRODUCTS + adapted * ADAPTER_PRODUCTS)
    return [streams * bandwidth / read, flops / operations]


def report(rows, roofs):
    print(f"roofs: {roofs[0] / 1e9:.1f} GB/s, {roofs[1] / 1e9:.0f} GFLOP/s")
    print(
        "| case | lorica tok/s | llama.cpp tok/s | ratio, median (min..max) | must / aim "
        "| floor of memory, of arithmetic | others' CPU, median (max) |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case, row in rows.items():
        row["ratios"] = [here / there for here, there in zip(row["lorica"], row["llama_cpp"])]
        ratio, others = statistics.median(row["ratios"]), statistics.median(row["others"])
        goal = "{} / {}".format(*GOALS[case]) if GOALS[case] else "-"
        memory, arithmetic = floors(case, *roofs)
        print(
            f"| {case} | {statistics.median(row['lorica']):.0f} "
            f"| {statistics.median(row['llama_cpp']):.0f} "
            f"| {ratio:.2f} ({min(row['ratios']):.2f}..{max(row['ratios']):.2f}) | {goal} "
            f"| {memory:.0f}, {arithmetic:.0f} | {others:.1%} ({max(row['others']):.1%}) |"
        )


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-bin", required=True)
    parser.add_argument("--bin", default=str(ROOT / "build/tests/bin"))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parser.add_argument("--model", default=f"{cache}/lorica/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", default=",".join(GOALS), help="comma-separated; all without")
    parser.add_argument("--quick", action="store_true", help="one round of 32 tokens")
    parser.add_argument("--json", help="write all measurements there")
    arguments = parser.parse_args()
    unknown = set(arguments.cases.split(",")) - set(GOALS)
    if unknown:
        parser.error(f"unknown cases {sorted(unknown)}; known are {', '.join(GOALS)}")
    if arguments.quick:
        arguments.rounds = 1
    return arguments


def main():
    arguments = parse()
    source = random.Random(7)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        make = [sys.executable, HERE / "make_adapters.py", folder / "adapters"]
        make += ["--count", str(STREAMS), "--gguf"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        roofs = measure_roofs(arguments)
        servers = []
        try:
            servers.append(Lorica(arguments, folder))
            servers.append(LlamaCpp(arguments, folder))
            ours, theirs = servers
            cases = make_cases(ours, theirs, source, 32 if arguments.quick else 96)
            ours.run([f"r{index:04d}" for index in range(STREAMS)], 4, 4, source)  # loads them
            theirs.run([0], 4, 4, source)
            asked = {case: cases[case] for case in arguments.cases.split(",")}
            rows = measure(arguments, ours, theirs, asked)
        finally:
            for server in servers:
                server.process.terminate()
                server.process.wait()
    report(rows, roofs)
    if arguments.json:
        result = {"bytes_a_second": roofs[0], "flops": roofs[1], "cases": rows}
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
