#!/usr/bin/env python3
"""How soon a client that goes away frees its place: tokens that are drawn after it has gone. Each time a client streams an answer beside
others, reads ten tokens and closes; what the server has drawn for it by its end is compared. One or two may be on their way when it closes.

    bench/server/gone.py UPG [MODEL] [--times 50]
"""
import argparse
import json
import os
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/server"))
from harness import Server  # noqa: E402


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("upg")
    p.add_argument("model", nargs="?")
    p.add_argument("--times", type=int, default=50)
    args = p.parse_args()
    late = []
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True, "seed": 1}).encode()
    with Server(args.upg, "-c", "512", "--speculate", "off", model=args.model) as s:
        for _ in range(args.times):
            before = s.metrics()["upg:generation_tokens_total"]
            c = socket.create_connection((s.host, s.port))
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            got = b""
            while got.count(b"data: ") < 10:
                got += c.recv(65536)
            read = got.count(b"data: ")
            c.close()
            while s.metrics()["upg:num_requests_running"]:
                time.sleep(.002)
            late.append(int(s.metrics()["upg:generation_tokens_total"] - before) - read)
    late.sort()
    print(f"tokens drawn beyond what the client had read: median {late[len(late) // 2]}, most {late[-1]}, of {args.times} times")


main()
