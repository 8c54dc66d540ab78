#!/usr/bin/env python3
"""How fast /health is answered while many clients keep connections open with a request that never ends (slow loris).

Usage: loris.py UPG [SOCKETS [REQUESTS]]. Starts `upg serve` with the embedded model on a free port. Each socket sends
a byte every second; every request of ours opens a connection of its own. Prints the latencies in milliseconds.
"""
import resource, socket, subprocess, sys, threading, time


def main():
    upg, sockets, requests = sys.argv[1], 1000, 500
    if len(sys.argv) > 2:
        sockets = int(sys.argv[2])
    if len(sys.argv) > 3:
        requests = int(sys.argv[3])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = subprocess.Popen([upg, "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = int(server.stdout.readline().split("://")[1].split(" ")[0].rsplit(":", 1)[1])
        attack(port, sockets, requests)
    finally:
        server.terminate()
        server.wait()


def attack(port, n, requests):
    slow, end = [], threading.Event()

    def dial():
        s = socket.create_connection(("127.0.0.1", port))
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        return s

    def dribble():
        while not end.wait(1):
            for i, s in enumerate(slow):
                try:
                    s.send(b"x")
                except OSError:  # it was closed: come again
                    s.close()
                    slow[i] = dial()

    measure(port, requests, "no other client")
    slow.extend(dial() for _ in range(n))
    thread = threading.Thread(target=dribble)
    thread.start()
    measure(port, requests, f"{n} slow clients")
    end.set()
    thread.join()


def measure(port, requests, name):
    times = []
    for _ in range(requests):
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
            s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := s.recv(4096):
                answer += part
        times.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.005)  # so that the slow ones have their turns between
        assert answer.startswith(b"HTTP/1.1 200 "), answer
    times.sort()
    at = lambda q: times[min(len(times) - 1, int(q * len(times)))]
    print(f"{name}: p50 {at(.5):.2f} ms  p99 {at(.99):.2f} ms  most {times[-1]:.2f} ms")


main()
