"""Tests of upg serve over the network, with the standard library only. Usage: serve.py UPG FOLDER; prints a line a test."""
import contextlib, http.client, json, os, random, re, resource, shutil, signal, socket, ssl, subprocess, sys, time

UPG, WORK = sys.argv[1:]
PATIENCE = 60  # seconds for what is to happen
TESTS = []


def test(name):
    return lambda f: TESTS.append((name, f)) or f


class Skip(Exception):
    pass


class Server:
    """A running upg serve; stopped at the end of a with, which also checks that it ends cleanly."""

    def __init__(self, *options, key=None, status=0):
        environment = dict(os.environ, **({"UPG_API_KEY": key} if key else {}))
        self.expected, self.ending = status, False
        self.process = subprocess.Popen([UPG, "serve", "--port", "0", *options], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env=environment)
        self.line = self.process.stdout.readline()
        found = re.match(r"upg serve: (\S+) at (https?)://(\S+):(\d+) \((\S+), (\d+) at once, context (\d+)\)\n", self.line)
        if not found:
            self.process.kill()
            raise AssertionError(f"said {self.line!r} and {self.process.stderr.read()!r}")
        self.name, self.scheme, self.host, self.port = found[1], found[2], found[3].strip("[]"), int(found[4])

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if not self.ending:
            self.end()
        try:
            self.errors = self.process.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        if not kind and self.expected is not None:
            assert self.process.returncode == self.expected, (self.process.returncode, self.errors)

    def end(self):
        self.ending = True  # a second SIGTERM would not let it end cleanly
        self.process.send_signal(signal.SIGTERM)

    def connect(self):
        if self.scheme == "https":
            context = ssl.create_default_context(cafile=f"{WORK}/cert.pem")
            return http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE, context=context)
        return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def ask(self, method, path, body=None, **headers):
        with contextlib.closing(self.connect()) as c:
            c.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            r = c.getresponse()
            return r.status, r.headers, r.read()

    def status(self, *args, **headers):
        return self.ask(*args, **headers)[0]

    def raw(self):
        return socket.create_connection((self.host, self.port), timeout=PATIENCE)

    def number(self, name):
        """A metric without its labels, summed."""
        text = self.ask("GET", "/metrics")[2].decode()
        return sum(float(l.rsplit(" ", 1)[1]) for l in text.splitlines() if re.match(rf"upg:{name}[{{ ]", l))


def until(what, *args):
    end = time.monotonic() + PATIENCE
    while not what(*args):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def fails(*options, env=None):
    p = subprocess.run([UPG, "serve", "--port", "0", *options], capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert p.returncode == 1 and p.stderr.startswith("upg: "), (p.returncode, p.stderr)
    return p.stderr


def read_all(s):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := s.recv(65536):
            data += part
    return data


@test("says where it listens, and answers")
def _():
    with Server() as s:
        assert s.name == "tales" and s.host == "127.0.0.1"
        assert s.ask("GET", "/health")[2] == b'{"status":"ok"}\n' or s.status("GET", "/health") == 200
        assert s.status("GET", "/ready") == 200
        status, headers, body = s.ask("GET", "/openapi.json")
        assert status == 200 and json.loads(body)["openapi"].startswith("3.")
        status, headers, body = s.ask("HEAD", "/health")
        assert status == 200 and body == b"" and int(headers["Content-Length"]) > 0
        assert s.status("GET", "/nothing") == 404 and s.status("PUT", "/health") == 405
    assert "sandbox: seccomp " in s.errors, s.errors


@test("IPv6")
def _():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        raise Skip("no IPv6 here")
    with Server("--host", "::1") as s:
        assert "//[::1]:" in s.line and s.status("GET", "/health") == 200


@test("an address that others reach needs a key, or --insecure")
def _():
    for host in "0.0.0.0", "::":
        assert "--api-key-file" in fails("--host", host) and "\n" not in fails("--host", host).rstrip("\n")
    with Server("--host", "0.0.0.0", "--insecure") as s:
        s.host = "127.0.0.1"
        assert s.status("GET", "/metrics") == 200
        assert s.status("GET", "/metrics", Host="evil.example") == 403
    with Server("--host", "0.0.0.0", key="secret") as s:
        s.host = "127.0.0.1"
        assert s.status("GET", "/metrics") == 401


@test("what cannot be served is said in one line")
def _():
    with Server() as s:
        assert "in use" in fails("--port", str(s.port))
    for option in "--api-key-file", "--template":
        assert f"{WORK}/nothere" in fails(option, f"{WORK}/nothere")
    assert "nothere" in fails("--access-log", f"{WORK}/nothere/log")
    assert "nothere" in fails(f"{WORK}/nothere")
    for option in ["--kv-memory", "2X"], ["--kv-memory", "0"], ["--kv-disk", "-1"], ["--port", "70000"], ["--drain", "x"]:
        p = subprocess.run([UPG, "serve", *option], capture_output=True, text=True, timeout=PATIENCE)
        assert p.returncode == 2 and p.stderr.startswith("upg serve: "), (option, p.stderr)


@test("keys: either header, from file and environment, read again by SIGHUP")
def _():
    path = f"{WORK}/keys"

    def write(text):  # as editors do: a new file takes the old one's place
        with open(path + "~", "w") as f:
            f.write(text)
        os.rename(path + "~", path)

    write("# comment\nalpha\n\n beta \n")
    with Server("--api-key-file", path, key="gamma") as s:
        use = lambda key: s.status("GET", "/metrics", Authorization=f"Bearer {key}")
        assert s.status("GET", "/health") == 200 and s.status("GET", "/metrics") == 401
        status, headers, _ = s.ask("GET", "/metrics", x_api_key="wrong")
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
        assert [use(k) for k in ("alpha", "beta", "gamma", "alph", "alphaa", "#")] == [200, 200, 200, 401, 401, 401]
        assert s.status("GET", "/metrics", x_api_key="beta") == 200
        write("delta\n")
        s.process.send_signal(signal.SIGHUP)
        until(lambda: use("delta") == 200)
        assert [use(k) for k in ("alpha", "gamma")] == [401, 200]
        write("not a key\n")
        s.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert use("delta") == 200
    assert "keys:1" in s.errors and "delta" not in s.errors and "gamma" not in s.errors, s.errors


@test("TLS")
def _():
    if not shutil.which("openssl"):
        raise Skip("openssl is not installed")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", f"{WORK}/key.pem", "-out", f"{WORK}/cert.pem"],
                   check=True, capture_output=True)
    with Server("--tls-cert", f"{WORK}/cert.pem", "--tls-key", f"{WORK}/key.pem") as s:
        assert s.scheme == "https" and s.status("GET", "/health") == 200
        assert s.status("GET", "/health", Origin=f"https://localhost:{s.port}") == 200
        assert s.status("GET", "/health", Origin=f"http://localhost:{s.port}") == 403
        with s.raw() as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" not in read_all(plain)
        assert s.status("GET", "/health") == 200
    for a, b in ("cert", "cert"), ("key", "key"), ("cert", "nothere"):
        fails("--tls-cert", f"{WORK}/{a}.pem", "--tls-key", f"{WORK}/{b}.pem")


@test("hosts, origins and preflights")
def _():
    with Server("--allow-host", "model.example", "--cors", "https://page.example") as s:
        assert s.status("GET", "/health", Host="model.example:8080") == 200
        assert s.status("GET", "/health", Host="other.example") == 403
        assert s.status("GET", "/health", Origin="https://other.example") == 403
        status, headers, _ = s.ask("GET", "/nothing", Origin="https://page.example")
        assert status == 404 and headers["Access-Control-Allow-Origin"] == "https://page.example"
        status, headers, _ = s.ask("OPTIONS", "/health", Origin="https://page.example", Access_Control_Request_Method="GET",
                                   Access_Control_Request_Headers="authorization")
        assert status == 204 and "GET" in headers["Access-Control-Allow-Methods"], (status, headers)
        assert headers["Access-Control-Allow-Headers"] == "authorization"


@test("the access log is JSON without secrets, and is reopened by SIGHUP")
def _():
    path = f"{WORK}/log"
    with Server("--access-log", path, key="the-secret-key") as s:
        s.ask("GET", "/metrics?q=the-secret-query", Authorization="Bearer the-secret-key", X_Else="the-secret-header")
        s.ask("GET", "/a%22%0a%ff%5cb")
        s.ask("POST", "/nothing", b"the-secret-body")
        until(lambda: open(path).read().count("\n") == 3)  # a line is written once its answer has been taken
        os.rename(path, path + ".1")
        s.process.send_signal(signal.SIGHUP)
        until(os.path.exists, path)
        s.ask("GET", "/health")
    old, new = open(path + ".1").read(), open(path).read()
    assert "the-secret" not in old + new
    old, new = [[json.loads(l) for l in text.splitlines()] for text in (old, new)]
    assert [l["path"] for l in old][0] == "/metrics" and [l["status"] for l in old] == [200, 404, 404], old
    assert [(l["method"], l["path"], l["status"]) for l in new] == [("GET", "/health", 200)], new
    for l in old + new:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", l["time"]) and re.fullmatch("[0-9a-f]{16}", l["id"])
        assert l["client"] == "127.0.0.1" and l["bytes"] > 0 and l["seconds"] >= 0, l


@test("metrics are Prometheus' text format")
def _():
    with Server("--name", 'a"b\\c') as s:
        s.ask("GET", "/nothing")
        status, headers, body = s.ask("GET", "/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    types, helped, buckets, counts = {}, set(), {}, {}
    for line in body.decode().splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            assert line.split()[2] not in types
            types[line.split()[2]] = line.split()[3]
        else:
            m = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)', line)
            assert m, line
            value, base = float(m[3]), re.sub(r"_(bucket|sum|count)$", "", m[1])
            name = base if types.get(base) == "histogram" else m[1]
            assert name in types and name in helped, line
            assert not m[1].startswith("upg:") or 'model_name="a\\"b\\\\c"' in m[2], line
            if m[1].endswith("_bucket"):
                buckets.setdefault(base, []).append(value)
            if m[1].endswith("_count"):
                counts[base] = value
    assert len(types) > 30 and len(buckets) == 6
    for name, values in buckets.items():
        assert values == sorted(values) and values[-1] == counts[name], name
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
                 "prefix_cache_hits_total", "prompt_tokens_total", "generation_tokens_total", "request_success_total",
                 "time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert f"upg:{name}" in types, name
    assert b'status="404"} 1' in body


@test("1,000 slow clients do not keep others out")
def _():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit < 1200:
        raise Skip(f"no more than {limit} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    for options in [], ["--max-connections", "300"]:
        with Server(*options) as s:
            slow = []
            for _ in range(1000):
                slow.append(s.raw())
                with contextlib.suppress(OSError):
                    slow[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            for _ in range(50):
                assert s.status("GET", "/health") == 200
            for c in slow:
                c.close()


@test("requests that do not arrive in time end")
def _():
    with Server("--read-timeout", "0.5") as s, s.raw() as head, s.raw() as body, s.raw() as nothing:
        head.sendall(b"GET /health HTTP/1.1\r\nHo")
        body.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345")
        assert [read_all(c) for c in (head, body, nothing)] == [b"", b"", b""]


@test("what is no HTTP does no harm")
def _():
    random.seed(1)
    whole = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    with Server("--read-timeout", "2") as s:
        sockets = []
        for _ in range(200):
            data = bytearray(whole)
            for _ in range(random.randrange(8)):
                data[random.randrange(len(data))] = random.randrange(256)
            sockets.append(s.raw())
            with contextlib.suppress(OSError):
                sockets[-1].sendall(bytes(data) if random.random() < 0.8 else random.randbytes(300))
                sockets[-1].shutdown(socket.SHUT_WR)
        for c in sockets:
            read_all(c)
            c.close()
        assert s.status("GET", "/health") == 200


@test("signals count whenever they come")
def _():
    for _ in range(10):
        with Server() as s:
            for _ in range(20):
                s.process.send_signal(signal.SIGHUP)


# ---- With answers that are generated: once the dialects are there ----

LONG = {"model": "tales", "prompt": "Once upon a time", "max_tokens": 900, "stream": True, "ignore_eos": True, "seed": 1}


def stream(s, **changes):
    """An open stream, after its first bytes; skips where there is no such path."""
    c = s.connect()
    c.request("POST", "/v1/completions", json.dumps({**LONG, **changes}), {"Content-Type": "application/json"})
    r = c.getresponse()
    if r.status == 404 and b"nothing at this path" in (text := r.read()):
        raise Skip("there is no /v1/completions yet")
    assert r.status == 200, r.read()
    return c, r


@test("a client that leaves ends its request")
def _():
    with Server("--parallel", "1") as s:
        c, r = stream(s)
        assert r.readline()
        r.close()
        c.close()
        until(lambda: s.number("num_requests_running") == 0)
        assert b'finished_reason="abort"} 1' in s.ask("GET", "/metrics")[2]


@test("SIGTERM lets answers end")
def _():
    with Server("--parallel", "1") as s:
        c, r = stream(s)
        first = r.readline()
        s.end()
        until(lambda: s.status("GET", "/ready") == 503)
        assert s.status("POST", "/v1/completions", json.dumps(LONG)) == 503
        text = first + r.read()
        assert text.rstrip().endswith(b"data: [DONE]"), text[-200:]
        c.close()


@test("SIGTERM with --drain 0 cuts answers off, and a second signal ends at once")
def _():
    with Server("--parallel", "1", "--drain", "0") as s:
        c, r = stream(s)
        r.readline()
        s.end()
        with contextlib.suppress(http.client.HTTPException, OSError):
            r.read()
        c.close()
    with Server("--parallel", "1", status=-signal.SIGTERM) as s:
        c, r = stream(s)
        r.readline()
        s.end()
        until(lambda: s.status("GET", "/ready") == 503)
        s.end()
        s.process.wait(PATIENCE)
        c.close()


@test("bodies that are no JSON are refused")
def _():
    with Server() as s:
        c, r = stream(s, max_tokens=1)
        r.read()
        c.close()
        for body in b"", b"{", b"[]", b"\xff", b"[" * 100000, b'{"prompt": ' + b'"' * 10:
            assert 400 <= s.status("POST", "/v1/completions", body) < 500, body[:20]
        assert s.status("POST", "/v1/completions", b"x" * (17 << 20)) == 413


for name, run in TESTS:
    try:
        run()
        print(f"ok serve: {name}", flush=True)
    except Skip as why:
        print(f"skip serve: {name}: {why}", flush=True)
    except Exception as e:
        print(f"not ok serve: {name}", flush=True)
        import traceback
        print("# " + traceback.format_exc().replace("\n", "\n# "), flush=True)
