#!/usr/bin/env python3
"""Throughput of upg serve beside llama.cpp's llama-server on one machine: tokens a second of all clients together, at 1, 8 and 32
clients, each round every server once, in turns. Every client asks one request after another, a short prompt of its own and --tokens
tokens, greedy, without an end. A server runs alone while it is measured.

    bench/server/peers.py UPG --llama-server PATH --pair MODEL.upg,MODEL.gguf ... [--clients 1,8,32] [--rounds 5] [--tokens 64] [--threads N]

--pair: two files of about equal bytes. llama-server is not on PyPI: it is built from llama.cpp's source.
"""
import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/server"))
from client import quantile, spread, stream  # noqa: E402
from harness import Server  # noqa: E402

CONTEXT = 512


class Llama:
    """llama-server with as many slots as there will be clients."""

    def __init__(self, path, model, slots, threads):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen([path, "-m", model, "--host", "127.0.0.1", "--port", str(self.port), "-np", str(slots), "-c", str(slots * CONTEXT),
                                         "-t", str(threads), "-tb", str(threads)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(.1)
        raise RuntimeError(f"{path} does not start")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()


def start(engine, path, n, args):
    if engine == "upg":
        return Server(args.upg, "--parallel", str(n), "-c", str(CONTEXT), "-t", str(args.threads), "--speculate", args.speculate, model=path)
    return Llama(args.llama_server, path, n, args.threads)


async def measure(port, n, tokens):
    """tok/s of all, and the gaps between tokens."""
    async def client(i):
        return await stream(port, "/v1/completions", {"prompt": f"Story number {i} of the old town begins", "max_tokens": tokens, "temperature": 0,
                                                      "ignore_eos": True})

    await asyncio.gather(*(client(1000 + i) for i in range(n)))  # warm
    begin = time.perf_counter()
    answers = await asyncio.gather(*(client(i) for i in range(n)))
    return sum(a.tokens for a in answers) / (time.perf_counter() - begin), [g for a in answers for g in a.gaps]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("upg")
    p.add_argument("--llama-server")
    p.add_argument("--pair", action="append", required=True)
    p.add_argument("--clients", default="1,8,32")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--speculate", default="off", help="of upg; llama-server has nothing like it by default")
    args = p.parse_args()
    counts = [int(n) for n in args.clients.split(",")]
    rows = [(engine, path) for pair in args.pair for engine, path in zip(("upg", "llama"), pair.split(",")) if engine == "upg" or args.llama_server]
    speeds, gaps = {}, {}
    for n in counts:
        for k in range(args.rounds):
            for row in rows:
                print(f"{n} clients, round {k + 1} of {args.rounds}: {row[0]} {os.path.basename(row[1])}", file=sys.stderr)
                with start(*row, n, args) as s:
                    speed, gap = asyncio.run(measure(s.port, n, args.tokens))
                speeds.setdefault((row, n), []).append(speed)
                gaps.setdefault((row, n), []).extend(gap)
    print("\n| server | file | MB |" + "".join(f" {n} client{'s' * (n > 1)}, tok/s | between tokens p50 / p99, ms |" for n in counts) + f" {counts[-1] if 8 not in counts else 8} / 1 |")
    print("|---" * (4 + 2 * len(counts)) + "|")
    for row in rows:
        cells = "".join(f" {spread(speeds[row, n])} | {1e3 * quantile(gaps[row, n], .5):.1f} / {1e3 * quantile(gaps[row, n], .99):.1f} |" for n in counts)
        many = statistics.median(speeds[row, 8 if 8 in counts else counts[-1]]) / statistics.median(speeds[row, counts[0]])
        print(f"| {row[0]} | {os.path.basename(row[1])} | {os.path.getsize(row[1]) / 1e6:.0f} |{cells} {many:.2f} |")


main()
