"""The server with answers on their way: limits, clients that vanish, a full queue, deadlines, how it ends, a date that jumps. Who is let in is
serve.py's. Usage: test_http.py UPG"""
import concurrent.futures
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import urllib.request

from harness import Server, check, end, events, until

UPG = sys.argv[1]
WORK = tempfile.mkdtemp()
LONG = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "temperature": 0}


# ---- What is answered, and what is not ----

def routes(s):
    assert s.request("GET", "/health")[0] == 200
    assert s.request("GET", "/ready")[0] == 200
    status, headers, data = s.request("HEAD", "/health")
    assert (status, data) == (200, b"") and int(headers["Content-Length"]) > 0
    assert s.request("GET", "/nothing")[0] == 404
    status, headers, data = s.request("POST", "/health", "{}")
    assert status == 405 and "GET" in headers["Allow"] and "POST" not in headers["Allow"], (status, headers["Allow"])
    json.loads(data)
    assert json.loads(s.request("GET", "/v1/messages/nothing")[2])["type"] == "error"
    assert isinstance(json.loads(s.request("GET", "/api/nothing")[2])["error"], str)
    assert "message" in json.loads(s.request("GET", "/v1/nothing")[2])["error"]
    document = json.loads(s.request("GET", "/openapi.json")[2])
    assert document["openapi"].startswith("3.1") and "/v1/chat/completions" in document["paths"]


def malformed(s):
    for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x00\x01\x02\x03\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /health HTTP/1.1\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
                 b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nX" + b"y" * 100 + b"\r\n\r\n"):
        answer = s.raw(data, 2)
        assert not answer or re.match(rb"HTTP/1\.[01] [2345]\d\d ", answer), (data, answer)
        assert not answer.startswith(b"HTTP/1.1 2") or data.startswith(b"GET /health"), (data, answer)
    assert s.request("GET", "/health")[0] == 200


def keep_alive(s):
    c = s.connect()
    for _ in range(3):
        c.request("GET", "/health")
        assert c.getresponse().read()
    c.close()
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    got = s.raw(one * 2 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert got.count(b"HTTP/1.1 200") == 3, got


def limits(s):
    assert b" 431 " in s.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100000 + b"\r\n\r\n").split(b"\r\n")[0]
    status = s.raw(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n").split(b"\r\n")[0]
    assert b" 413 " in status, status
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    data = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 17 + b"0\r\n\r\n"
    assert b" 413 " in s.raw(data).split(b"\r\n")[0]
    assert s.raw(data.replace(b"0\r\n\r\n", chunk * 200), 3) == b""  # a body without end: nothing more is read
    for body in (b"", b"{", b"[]", b"1", b"nul", b'{"prompt":"a","prompt":"b"}', b'{"prompt":"\xff"}', b"[" * 100000, b'{"a":' * 5000, b'{"prompt":"a"}x'):
        status, _, answer = s.request("POST", "/v1/completions", body)
        assert status == 400 and "message" in json.loads(answer)["error"], (body[:20], status, answer)


# ---- Slow and vanishing clients ----


def gone(s):
    """A client that leaves frees its slot within a few tokens, whether it streams or waits."""
    before = s.metrics()
    for stream in (True, False):
        body = json.dumps(LONG | {"stream": stream, "n": 2}).encode()
        c = socket.create_connection((s.host, s.port), timeout=20)
        c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        if stream:
            while b"data: " not in c.recv(4096):
                pass
        else:
            until(lambda: s.metrics()["upg:num_requests_running"] > 0)
        c.close()
        until(lambda: s.metrics()["upg:num_requests_running"] == 0, 10, "an end")
    after = s.metrics()
    name = 'upg:request_success_total{finished_reason="abort"}'
    assert after[name] - before[name] == 4, (after[name], before[name])
    assert after["upg:generation_tokens_total"] - before["upg:generation_tokens_total"] < 4 * 800


def queue():
    """Past the queue a client is told to come again; what waits is answered."""
    with Server(UPG, "--parallel", "1", "--queue", "2") as s, concurrent.futures.ThreadPoolExecutor(12) as pool:
        all_ = list(pool.map(lambda _: s.request("POST", "/v1/completions", LONG | {"max_tokens": 400}), range(12)))
        full = [a for a in all_ if a[0] == 429]
        good = {a[2].split(b'"choices"')[1] for a in all_ if a[0] == 200}
        assert full and len(full) + len([a for a in all_ if a[0] == 200]) == 12
        assert all(a[1]["Retry-After"] for a in full) and len(good) == 1
        assert s.metrics()["upg:requests_rejected_total"] == len(full)


def late():
    with Server(UPG, "--timeout", "0.05") as s:
        status, _, data = s.request("POST", "/v1/completions", LONG)
        assert status == 504 and "message" in json.loads(data)["error"], (status, data)
        data = s.request("POST", "/v1/completions", LONG | {"stream": True})[2]
        assert "error" in json.loads(events(data)[-1][1]), data[-300:]


def drain():
    """SIGTERM lets running answers end, takes nothing new, and exits with 0; what does not end in time is cut off."""
    with Server(UPG) as s, concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(s.request, "POST", "/v1/completions", LONG) for _ in range(3)]
        until(lambda: s.metrics()["upg:num_requests_running"] == 3)
        assert s.stop() == 0
        for r in running:
            status, _, data = r.result()
            assert status == 200 and json.loads(data)["choices"][0]["finish_reason"] == "length", (status, data)
    with Server(UPG, "--drain", "0") as s, concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = pool.submit(s.request, "POST", "/v1/completions", LONG | {"n": 4})
        until(lambda: s.metrics()["upg:num_requests_running"] == 4)
        assert s.stop() == 0
        assert running.result()[0] in (200, 503)


def metrics(s):
    s.request("POST", "/v1/completions", LONG | {"max_tokens": 20})
    text = s.request("GET", "/metrics")[2].decode()
    types = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in types
            types[name] = kind
        elif not line.startswith("# HELP "):
            assert re.fullmatch(r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{([a-z_]+="([^"\\\n]|\\.)*",?)*\})? [-+0-9.eEinfN]+', line), line
            name = line.split("{")[0].split()[0]
            assert name in types or re.sub("_(bucket|sum|count)$", "", name) in types, name
    m = s.metrics()
    for name in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
                 "request_prefill_time_seconds", "request_decode_time_seconds"):
        buckets = [v for k, v in m.items() if k.startswith(f"upg:{name}_bucket")]
        assert buckets == sorted(buckets) and buckets[-1] == m[f"upg:{name}_count"] > 0, name
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total", "prefix_cache_hits_total",
                 "prompt_tokens_total", "generation_tokens_total", 'request_success_total{finished_reason="length"}'):
        assert "upg:" + name in m, name


LIBFAKETIME = next((p for p in (f"/usr/lib/{a}-linux-gnu/faketime/libfaketime.so.1" for a in ("x86_64", "aarch64")) if os.path.exists(p)), None)


def clock():
    """Times are those of a clock that is never set: the date may jump a year ahead and back."""
    stamp = os.path.join(WORK, "faketime")

    def jump(days):
        with open(stamp, "w", encoding="utf-8") as f:
            f.write(f"{days:+d}d")

    jump(0)
    env = {"LD_PRELOAD": LIBFAKETIME, "FAKETIME_TIMESTAMP_FILE": stamp, "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1",
           "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with Server(UPG, "--timeout", "60", "--read-timeout", "20", "--no-sandbox", env=env) as s:
        want = s.post("/v1/completions", LONG | {"max_tokens": 50})["choices"]
        for days in (400, -400, 0):
            jump(days)
            assert s.post("/v1/completions", LONG | {"max_tokens": 50})["choices"] == want


def main():
    with Server(UPG, "--max-body", "1") as s:
        check("routes, methods, and errors in the shape of the API they are near", routes, s)
        check("malformed requests are answered or dropped", malformed, s)
        check("several requests in one connection", keep_alive, s)
        check("heads, bodies and nesting have limits", limits, s)
        check("metrics are Prometheus' text, with vLLM's names", metrics, s)
        check("a client that leaves frees its slot", gone, s)
    check("a full queue", queue)
    check("a deadline", late)
    check("SIGTERM", drain)
    if "/san/" in UPG:
        print("skip the date jumps: libfaketime and the sanitizers both want to be first")
    elif LIBFAKETIME:
        check("the date jumps", clock)
    else:
        print("skip the date jumps: libfaketime is not installed")
    shutil.rmtree(WORK)
    end()


main()
