"""What the tests and benchmarks of the server share: starting and stopping `upg serve`, plain HTTP, and lines of results."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

failed = 0


def check(name, test, *args):
    """Prints ok or not ok; an AssertionError says what was wrong."""
    global failed
    try:
        test(*args)
        print(f"ok {name}", flush=True)
    except Exception:
        failed += 1
        print("\n".join("# " + line for line in traceback.format_exc().splitlines()))
        print(f"not ok {name}", flush=True)


class Server:
    """`upg serve` on a free port; with as `with`."""

    def __init__(self, upg, *options, model=None, env=None, wait=60):
        self.log, self.killed = tempfile.TemporaryFile("w+"), False
        leaks = ["--no-sandbox"] if "/san/" in upg else []  # the leak sanitizer traces its own process, which the sandbox forbids
        self.process = subprocess.Popen([upg, "serve", *([model] if model else []), "--port", "0", *options, *leaks], stdout=subprocess.PIPE,
                                        stderr=self.log, text=True, env={**{k: v for k, v in os.environ.items() if k != "UPG_API_KEY"}, **(env or {})})
        line = self.process.stdout.readline()
        found = re.search(r"at (https?)://(\[?[^ ]*\]?):(\d+) \(", line)
        if not found:
            self.process.wait(wait)
            raise RuntimeError(f"upg serve did not start: {line}{self.errors()}")
        self.scheme, self.host, self.port = found[1], found[2].strip("[]"), int(found[3])
        self.url = f"{self.scheme}://{found[2]}:{self.port}"

    def errors(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self, how=signal.SIGTERM, wait=60):
        self.killed |= how == signal.SIGKILL
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(wait)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        status, errors = self.stop(), self.errors()
        self.process.stdout.close()
        self.log.close()
        if not kind and not self.killed:
            assert status == 0, (status, errors)

    def connect(self, timeout=60):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=60):
        """Status, headers and body; a body that is no bytes or text goes as JSON."""
        c = self.connect(timeout)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        c.request(method, path, body, headers)
        r = c.getresponse()
        data = r.read()
        c.close()
        return r.status, r.headers, data

    def post(self, path, body, expect=200, **more):
        status, _, data = self.request("POST", path, body, **more)
        assert status == expect, (status, data[:500])
        return json.loads(data)

    def raw(self, data, timeout=10):
        """What the server says to these bytes, until it closes or is silent."""
        s = socket.create_connection((self.host, self.port), timeout=timeout)
        got = b""
        try:
            s.sendall(data)
            while part := s.recv(65536):
                got += part
        except OSError:
            pass
        s.close()
        return got

    def metrics(self):
        """name or name{labels} -> value."""
        out = {}
        for line in self.request("GET", "/metrics")[2].decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                out[re.sub(r'model_name="[^"]*",?', "", name).replace("{}", "")] = float(value)
        return out


def until(condition, seconds=10, what="it"):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(.01)


def events(data):
    """The events of an SSE stream: (event or None, data)."""
    out = []
    for block in data.decode().replace("\r\n", "\n").split("\n\n"):
        name, text = None, []
        for line in block.splitlines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                text.append(line[6:])
        if text:
            out.append((name, "\n".join(text)))
    return out


def end():
    sys.exit(1 if failed else 0)
