#!/usr/bin/env python3
"""Lorica beside llama.cpp on the same machine, in one run, in turns.

    side_by_side.py --llama-bin llama.cpp/build/bin [--bin build/tests/bin] [--rounds 5]
                    [--json FILE]

Each round measures every case on both servers, one directly after the other; what is
printed is the median of the ratios of the rounds, the medians themselves, and the floor.
Times on shared machines move; ratios of neighbours in time move less. Both sides are
whole servers on loopback with two threads, the same GGUF, random prompts, greedy.

  one        1 base stream, prompt 16, 96 tokens: tok/s after the first token
  eight      8 base streams, the same
  prompt     1 prompt of 512 tokens, 1 token: prompt tok/s
  adapters   8 streams of 8 different rank-16 adapters here; 8 streams of ONE adapter there
             (it cannot share a batch between adapters); the row `each` is its 8 different ones

Needs Python's own library; llama-server of llama.cpp, built with GGML_NATIVE=ON.
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
STREAMS, PROMPT, TOKENS, LONG_PROMPT = 8, 16, 96, 512


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def random_ids(source, count):
    return [source.randrange(1000, 48000) for _ in range(count)]


class Lorica:
    def __init__(self, arguments, folder):
        self.bin, self.folder = arguments.bin, folder
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(folder / "loricad.log", "w")
        self.process = subprocess.Popen(
            [
                f"{arguments.bin}/loricad",
                "--model",
                arguments.model,
                "--adapters-dir",
                folder / "adapters",
                "--data-dir",
                folder / "data",
                "--grpc-address",
                self.address,
                "--threads",
                str(arguments.threads),
            ],
            stdout=self.log,
            stderr=self.log,
        )
        wait_for(
            lambda: subprocess.run(
                [f"{self.bin}/lorica", "--server", self.address, "status"], capture_output=True
            ).returncode
            == 0,
            "loricad",
        )

    def run(self, adapters, prompt, tokens, source):
        lines = [
            json.dumps(
                {
                    "adapter_id": adapter or "",
                    "token_ids": random_ids(source, prompt),
                    "max_tokens": tokens,
                    "temperature": 0,
                    "ignore_eos": True,
                }
            )
            for adapter in adapters
        ]
        requests = self.folder / "requests.jsonl"
        requests.write_text("\n".join(lines) + "\n")
        done = subprocess.run(
            [
                f"{self.bin}/lorica",
                "--server",
                self.address,
                "batch",
                "--file",
                requests,
                "--concurrency",
                str(len(adapters)),
            ],
            capture_output=True,
            text=True,
        )
        results = [json.loads(line) for line in done.stdout.splitlines()]
        failed = [result for result in results if "error" in result]
        if failed or len(results) != len(adapters):
            raise SystemExit(f"loricad failed: {failed[:1]} {done.stderr[-500:]}")
        return [
            (
                result["timings"]["ttft_ms"] / 1e3,
                result["timings"]["total_ms"] / 1e3,
                len(result["token_ids"]),
            )
            for result in results
        ]

    def pid(self):
        return self.process.pid


class LlamaCpp:
    def __init__(self, arguments, folder):
        self.port = free_port()
        loras = ",".join(str(path) for path in sorted((folder / "adapters").glob("*.gguf")))
        self.log = open(folder / "llama.log", "w")
        self.process = subprocess.Popen(
            [
                f"{arguments.llama_bin}/llama-server",
                "-m",
                arguments.model,
                "-t",
                str(arguments.threads),
                "-np",
                str(STREAMS),
                "-c",
                "8192",
                "--port",
                str(self.port),
                "--lora-init-without-apply",
                "--lora",
                loras,
                "-cram",
                "0",
            ],
            stdout=self.log,
            stderr=self.log,
        )
        wait_for(lambda: self.request("GET", "/health") is not None, "llama-server")

    def request(self, method, path, body=None):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
            connection.request(
                method,
                path,
                json.dumps(body) if body else None,
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read()
            return json.loads(text) if answer.status == 200 else None
        except OSError:
            return None

    def one(self, body):
        start = time.monotonic()
        answer = self.request("POST", "/completion", body)
        total = time.monotonic() - start
        if answer is None:
            raise SystemExit("llama-server failed")
        return answer["timings"]["prompt_ms"] / 1e3, total, answer["timings"]["predicted_n"]

    def run(self, adapters, prompt, tokens, source):
        bodies = [
            {
                "prompt": random_ids(source, prompt),
                "n_predict": tokens,
                "temperature": 0.0,
                "ignore_eos": True,
                "cache_prompt": False,
                "lora": [{"id": adapter or 0, "scale": 0.0 if adapter is None else 1.0}],
            }
            for adapter in adapters
        ]
        with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(self.one, bodies))


def wait_for(ready, what):
    for _ in range(600):
        if ready():
            return
        time.sleep(0.1)
    raise SystemExit(f"{what} did not start")


def decode_rate(results):
    """All tokens over the time to the last byte of the last stream."""
    return sum(count for _, _, count in results) / max(total for _, total, _ in results)


def read_bandwidth(threads):
    """GB/s of a sum over 512 MiB by that many processes: the floor's denominator."""
    source = r"""
#include <cstdio>
#include <cstdlib>
#include <chrono>
#include <immintrin.h>
#include <vector>
#include <thread>
int main(int, char** v) {
  const int threads = atoi(v[1]); const size_t n = size_t{512} << 20;
  std::vector<char> data(n, 1); double best = 0;
  for (int round = 0; round < 7; ++round) {
    auto start = std::chrono::steady_clock::now(); std::vector<std::thread> pool;
    for (int t = 0; t < threads; ++t) pool.emplace_back([&, t] {
      __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
      const char* p = data.data() + n / threads * t;
      for (size_t i = 0; i + 128 <= n / threads; i += 128) {
        a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i*)(p + i)));
        b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i*)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i*)(p + i + 64)));
        d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i*)(p + i + 96)));
      }
      a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
      volatile int sink = _mm256_extract_epi32(a, 0);
      (void)sink; });
    for (auto& t : pool) t.join();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const double s = took.count();
    if (n / s / 1e9 > best) best = n / s / 1e9;
  }
  printf("%f\n", best);
}"""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "read.cc"
        path.write_text(source)
        subprocess.run(
            ["g++", "-O3", "-march=native", "-pthread", path, "-o", path.with_suffix("")],
            check=True,
        )
        return float(
            subprocess.run(
                [path.with_suffix(""), str(threads)], capture_output=True, text=True
            ).stdout
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-bin", required=True)
    parser.add_argument("--bin", default=str(ROOT / "build/tests/bin"))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    parser.add_argument("--model", default=f"{cache}/lorica/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    source = random.Random(7)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        subprocess.run(
            [
                sys.executable,
                HERE / "make_adapters.py",
                folder / "adapters",
                "--count",
                str(STREAMS),
                "--gguf",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        ours, theirs = Lorica(arguments, folder), LlamaCpp(arguments, folder)
        try:
            report(arguments, measure(arguments, ours, theirs, source))
        finally:
            ours.process.terminate()
            theirs.process.terminate()
            ours.process.wait()
            theirs.process.wait()


def measure(arguments, ours, theirs, source):
    names = [f"r{index:04d}" for index in range(STREAMS)]
    ours.run(names, 4, 4, source)  # brings all adapters in
    theirs.run([0], 4, 4, source)
    cases = {
        "one": (
            lambda: decode_rate(ours.run([None], PROMPT, TOKENS, source)),
            lambda: decode_rate(theirs.run([None], PROMPT, TOKENS, source)),
        ),
        "eight": (
            lambda: decode_rate(ours.run([None] * STREAMS, PROMPT, TOKENS, source)),
            lambda: decode_rate(theirs.run([None] * STREAMS, PROMPT, TOKENS, source)),
        ),
        "prompt": (
            lambda: LONG_PROMPT / ours.run([None], LONG_PROMPT, 1, source)[0][0],
            lambda: LONG_PROMPT / theirs.run([None], LONG_PROMPT, 1, source)[0][0],
        ),
        "adapters": (
            lambda: decode_rate(ours.run(names, PROMPT, TOKENS, source)),
            lambda: decode_rate(theirs.run([0] * STREAMS, PROMPT, TOKENS, source)),
        ),
        "each": (
            lambda: decode_rate(ours.run(names, PROMPT, TOKENS, source)),
            lambda: decode_rate(theirs.run(list(range(STREAMS)), PROMPT, TOKENS, source)),
        ),
    }
    rates = {case: ([], []) for case in cases}
    for number in range(arguments.rounds):
        for case, (here, there) in cases.items():
            rates[case][0].append(here())
            rates[case][1].append(there())
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    return rates


# must and aim as ratios; bytes a step reads: weights once, plus rank-16 adapters of each row.
GOALS = {
    "one": (0.8, 1.3),
    "eight": (1.2, 2.0),
    "prompt": (1.2, 2.0),
    "adapters": (1.0, 1.6),
    "each": (None, None),
}
WEIGHT_BYTES, ADAPTER_BYTES = 96.5e6, 9.76e6


def report(arguments, rates):
    bandwidth = read_bandwidth(arguments.threads)
    print(
        f"read bandwidth {bandwidth:.1f} GB/s ({arguments.threads} threads, 512 MiB); "
        f"decode floors are bytes over it, prompts are bound by arithmetic"
    )
    print(
        "| case | lorica tok/s | llama.cpp tok/s | ratio, median (min..max) | must / aim "
        "| memory floor tok/s |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    rows = {}
    for case, (here, there) in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(here, there)]
        streams = 1 if case in ("one", "prompt") else STREAMS
        step_bytes = WEIGHT_BYTES + (STREAMS * ADAPTER_BYTES if case in ("adapters", "each") else 0)
        floor = "-" if case == "prompt" else f"{streams * bandwidth * 1e9 / step_bytes:.0f}"
        must, aim = GOALS[case]
        goal = f"{must} / {aim}" if must else "-"
        print(
            f"| {case} | {statistics.median(here):.0f} | {statistics.median(there):.0f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}) | "
            f"{goal} | {floor} |"
        )
        rows[case] = {"lorica": here, "llama_cpp": there, "ratios": ratios}
    if arguments.json:
        json.dump({"bandwidth_gb_s": bandwidth, "cases": rows}, open(arguments.json, "w"), indent=1)


if __name__ == "__main__":
    main()
