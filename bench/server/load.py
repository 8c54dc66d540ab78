#!/usr/bin/env python3
"""Many streaming clients for a while: whether every answer is the bytes that its request gets alone, how long tokens take, and whether
memory grows. Each client asks one request after another, of a few dozen kinds, at temperature 0.8 with a seed.

    bench/server/load.py UPG [MODEL] [--clients 64] [--seconds 600] [--tokens 32] [--parallel 64] [-- OPTIONS OF upg serve]
"""
import argparse
import asyncio
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/server"))
from client import milliseconds, stream  # noqa: E402
from harness import Server  # noqa: E402

KINDS = 48


def requests(tokens):
    """Prompts of all lengths, some of which begin alike."""
    r = random.Random(1)
    words = "the a river mountain city king ship letter garden winter road light morning house voice stone".split()
    shared = "Here is a long story about the old town by the sea. " * 8
    for i in range(KINDS):
        text = (shared if i % 3 == 0 else "") + " ".join(r.choice(words) for _ in range(r.choice((3, 10, 40, 150))))
        yield {"prompt": text, "max_tokens": tokens, "temperature": .8, "seed": i, "ignore_eos": True}


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon"))


async def run(s, args):
    kinds = list(requests(args.tokens))
    alone = [(await stream(s.port, "/v1/completions", k)).text for k in kinds]
    answers, wrong, memory = [], 0, []
    end, start = time.perf_counter() + args.seconds, time.perf_counter()

    async def client(i):
        nonlocal wrong
        r = random.Random(i)
        while time.perf_counter() < end:
            k = r.randrange(KINDS)
            a = await stream(s.port, "/v1/completions", kinds[k])
            wrong += a.text != alone[k]
            answers.append(a)

    async def watch():
        while time.perf_counter() < end:
            memory.append((time.perf_counter() - start, resident(s.process.pid)))
            await asyncio.sleep(min(2, args.seconds / 20))

    before = s.metrics()
    await asyncio.gather(watch(), *(client(i) for i in range(args.clients)))
    seconds, after = time.perf_counter() - start, s.metrics()
    steps, rows, tokens = (after[f"upg:{n}"] - before[f"upg:{n}"] for n in ("steps_total", "step_rows_total", "generation_tokens_total"))
    print(f"{args.clients} clients, {seconds:.0f} s: {len(answers)} answers, {wrong} of them not the bytes that the request gets alone")
    print(f"{tokens / seconds:.0f} tok/s, {tokens / steps:.1f} tokens and {rows / steps:.1f} rows a program run")
    print(f"p50 / p99: to the first token {milliseconds([a.first for a in answers])}, between tokens {milliseconds([g for a in answers for g in a.gaps])}")
    warm = [m for t, m in memory if t > args.seconds * .1] or [m for _, m in memory]
    tenth = max(1, len(warm) // 10)
    first, last = (sum(part) / len(part) for part in (warm[:tenth], warm[-tenth:]))
    print(f"memory of its own after a tenth of the time {first / 1e6:.1f} MB, at the end {last / 1e6:.1f} MB: {100 * (last / first - 1):+.2f} %")
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("upg")
    p.add_argument("model", nargs="?")
    p.add_argument("--clients", type=int, default=64)
    p.add_argument("--seconds", type=float, default=600)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--parallel", type=int, default=64)
    args, options = p.parse_known_args()
    with Server(args.upg, "--parallel", str(args.parallel), "--queue", "1024", "-c", "1024", "--kv-memory", "2G", *(o for o in options if o != "--"), model=args.model) as s:
        wrong = asyncio.run(run(s, args))
    sys.exit(wrong > 0)


main()
