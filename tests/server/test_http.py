"""The server against the network: limits, keys, origins, slow and vanishing clients, and how it ends. Usage: test_http.py UPG"""
import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

from harness import Server, check, end, events, until

UPG = sys.argv[1]
WORK = tempfile.mkdtemp()
LONG = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "temperature": 0}


def refused(*options, env=None):
    r = subprocess.run([UPG, "serve", "--port", "0", *options], capture_output=True, text=True, timeout=30,
                       env={**{k: v for k, v in os.environ.items() if k != "UPG_API_KEY"}, **(env or {})})
    assert r.returncode == 1, (r.returncode, r.stdout, r.stderr)
    assert len(r.stderr.splitlines()) == 1, r.stderr
    return r.stderr


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


def hosts(s):
    for host in ("localhost", f"127.0.0.1:{s.port}", "[::1]:80", "my.name", "MY.NAME:1"):
        assert s.request("GET", "/health", headers={"Host": host})[0] == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[::1", "localhost:x", "my.name,other"):
        assert s.request("GET", "/health", headers={"Host": host})[0] in (400, 403), host


def origins(s):
    own = {"Host": f"localhost:{s.port}", "Origin": f"http://localhost:{s.port}"}
    assert s.request("GET", "/health", headers=own)[0] == 200
    for origin in ("https://evil.example", "null", "http://localhost:1", "https://a.example.evil.example"):
        status, headers, _ = s.request("GET", "/health", headers={"Origin": origin})
        assert status == 403 and not headers["Access-Control-Allow-Origin"], (origin, status)
    status, headers, _ = s.request("GET", "/health", headers={"Origin": "https://a.example"})
    assert status == 200 and headers["Access-Control-Allow-Origin"] == "https://a.example"
    status, headers, _ = s.request("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://a.example", "Access-Control-Request-Method": "POST"})
    assert status == 204 and "POST" in headers["Access-Control-Allow-Methods"]
    assert s.request("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://evil.example"})[0] == 403


def keys():
    path = os.path.join(WORK, "keys")
    with open(path, "w", encoding="utf-8") as f:
        f.write("# a comment\n\n  first-key  \nsecond-key\r\n")
    with Server(UPG, "--api-key-file", path, "--access-log", "-", "--cors", "https://a.example", env={"UPG_API_KEY": "third-key"}) as s:
        assert s.request("GET", "/health")[0] == 200 and s.request("GET", "/ready")[0] == 200
        for header in ({}, {"Authorization": "Bearer first-ke"}, {"Authorization": "Bearer first-keyy"}, {"Authorization": "first-key"},
                       {"x-api-key": "# a comment"}, {"Authorization": "Bearer "}, {"x-api-key": "k" * 5000}, {"Authorization": "Basic first-key"}):
            for path_, shape in (("/v1/models", "error"), ("/metrics", "error"), ("/api/tags", "error")):
                status, headers, data = s.request("GET", path_, headers=header)
                assert status == 401 and headers["WWW-Authenticate"] == "Bearer" and shape in json.loads(data), (header, status)
        for key in ("first-key", "second-key", "third-key"):
            assert s.request("GET", "/v1/models", headers={"Authorization": "Bearer " + key})[0] == 200, key
            assert s.request("GET", "/v1/models", headers={"x-api-key": key})[0] == 200, key
        # A page's question whether it may carries no key.
        assert s.request("OPTIONS", "/v1/models", headers={"Origin": "https://a.example"})[0] == 204
        with open(path + ".new", "w", encoding="utf-8") as f:
            f.write("fourth-key\n")
        os.rename(path + ".new", path)
        s.process.send_signal(signal.SIGHUP)
        until(lambda: s.request("GET", "/v1/models", headers={"x-api-key": "fourth-key"})[0] == 200, what="a new key")
        assert s.request("GET", "/v1/models", headers={"x-api-key": "first-key"})[0] == 401
        with open(path, "w", encoding="utf-8") as f:
            f.write("# none\n")
        s.process.send_signal(signal.SIGHUP)
        until(lambda: "old keys stay" in s.errors(), what="a refused reload")
        assert s.request("GET", "/v1/models", headers={"x-api-key": "fourth-key"})[0] == 200
        assert not re.search("(first|second|third|fourth)-key", s.errors())


def needs_keys():
    message = refused("--host", "0.0.0.0")
    assert "--api-key-file" in message and "--insecure" in message, message
    assert "no-such" in refused("--api-key-file", os.path.join(WORK, "no-such"))
    with Server(UPG, "--host", "0.0.0.0", "--insecure") as s:
        s.host = "127.0.0.1"
        assert s.request("GET", "/health", headers={"Host": "10.1.2.3:99"})[0] == 200
        assert s.request("GET", "/health", headers={"Host": "evil.example"})[0] == 403
        assert "cannot listen" in refused("--port", str(s.port))


def tls():
    certificate, key = os.path.join(WORK, "c.pem"), os.path.join(WORK, "k.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj",
                    "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    with Server(UPG, "--tls-cert", certificate, "--tls-key", key) as s:
        context = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(f"https://localhost:{s.port}/health", context=context, timeout=20) as r:
            assert r.status == 200
        body = json.dumps(LONG | {"max_tokens": 50, "stream": True}).encode()
        with urllib.request.urlopen(f"https://localhost:{s.port}/v1/completions", body, context=context, timeout=60) as r:
            assert r.read().endswith(b"data: [DONE]\n\n")
        assert b"200 OK" not in s.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 3)
    os.chmod(certificate, 0o600)
    assert "not a certificate" in refused("--tls-cert", key, "--tls-key", certificate)
    assert "both" in refused("--tls-cert", certificate)


# ---- Slow and vanishing clients ----

def slow():
    """Sockets that never finish a request are shut in time, and keep nobody out meanwhile."""
    with Server(UPG, "--read-timeout", "2", "--max-connections", "64") as s:
        loris = []
        start = time.monotonic()
        for i in range(300):
            c = socket.create_connection((s.host, s.port), timeout=20)
            c.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{" if i % 2 else b"GET /health HTTP/1.1\r\nX")
            loris.append(c)
            if i % 50 == 49:
                assert s.request("GET", "/health", timeout=20)[0] == 200
        while time.monotonic() < start + 3:
            time.sleep(.1)
            for c in loris:
                try:
                    c.sendall(b"a")
                except OSError:
                    pass
        until(lambda: s.metrics()["upg:http_connections"] < 3, 20, "shutting")
        assert s.metrics()["upg:http_connections_shut_total"] >= 300
        for c in loris:
            c.close()


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


def access_log():
    path = os.path.join(WORK, "access.log")
    with Server(UPG, "--access-log", path) as s:
        s.request("POST", "/v1/completions?key=secret-query", LONG | {"max_tokens": 5, "prompt": "secret-prompt"})
        s.raw(b'GET /odd"\\\x01\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', 3)
        os.rename(path, path + ".1")
        s.process.send_signal(signal.SIGHUP)
        until(lambda: os.path.exists(path), what="a new log")
        s.request("GET", "/health")
        until(lambda: os.path.getsize(path) > 0, what="a line")
    with open(path + ".1", encoding="utf-8") as f:
        text = f.read()
    assert "secret" not in text, text
    lines = [json.loads(line) for line in text.splitlines()]
    first = lines[0]
    assert first["path"] == "/v1/completions" and first["status"] == 200 and first["completion_tokens"] == 5 and first["finish"] == "length", first
    assert first["client"] == "127.0.0.1" and first["complete"] and first["prompt_tokens"] > 0
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])


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


def clock():
    """Times are those of a clock that is never set: nothing to do with what the date is. (libfaketime steps it meanwhile.)"""
    library = next((p for p in ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1")
                    if os.path.exists(p)), None)
    if not library:
        return False
    stamp = os.path.join(WORK, "faketime")
    with open(stamp, "w", encoding="utf-8") as f:
        f.write("+0d")
    env = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": stamp, "FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with Server(UPG, "--timeout", "60", "--read-timeout", "20", "--no-sandbox", env=env) as s:
        want = s.post("/v1/completions", LONG | {"max_tokens": 50})["choices"]
        for jump in ("+400d", "-400d", "+0d"):
            with open(stamp, "w", encoding="utf-8") as f:
                f.write(jump)
            assert s.post("/v1/completions", LONG | {"max_tokens": 50})["choices"] == want
    return True


def main():
    with Server(UPG, "--max-body", "1", "--allow-host", "my.name", "--cors", "https://a.example,https://b.example") as s:
        check("routes, methods, and errors in the shape of the API they are near", routes, s)
        check("malformed requests are answered or dropped", malformed, s)
        check("several requests in one connection", keep_alive, s)
        check("heads, bodies and nesting have limits", limits, s)
        check("other names in Host are refused", hosts, s)
        check("other origins are refused, listed ones served", origins, s)
        check("metrics are Prometheus' text, with vLLM's names", metrics, s)
        check("a client that leaves frees its slot", gone, s)
    check("keys: needed, read again by SIGHUP, never logged", keys)
    check("an address that others reach needs a key", needs_keys)
    if shutil.which("openssl"):
        check("TLS", tls)
    else:
        print("skip TLS: openssl is not installed")
    check("300 sockets that never finish a request", slow)
    check("a full queue", queue)
    check("a deadline", late)
    check("SIGTERM", drain)
    check("the access log: JSON without secrets, opened anew by SIGHUP", access_log)
    result = []
    check_clock = lambda: result.append(clock())
    if "/san/" in UPG:
        print("skip the date jumps: libfaketime and the sanitizers both want to be first")
    elif any(os.path.exists(f"/usr/lib/{a}-linux-gnu/faketime/libfaketime.so.1") for a in ("x86_64", "aarch64")):
        check("the date jumps", check_clock)
    else:
        print("skip the date jumps: libfaketime is not installed")
    shutil.rmtree(WORK)
    end()


main()
