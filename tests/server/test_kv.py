"""The prompt cache on disk: kept across restarts, and whatever happens to it, answers stay what they are. Usage: test_kv.py UPG"""
import concurrent.futures
import glob
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from harness import Server, check, end, until

UPG = sys.argv[1]
WORK = tempfile.mkdtemp()
TEXT = "It was the best of times, it was the worst of times, and the king went down to the river with all his men. "
KINDS = [{"prompt": f"Chapter {i}. " + TEXT * (5 + 3 * i), "max_tokens": 30, "temperature": .8, "seed": i, "ignore_eos": True} for i in range(6)]


def ask(s, kind):
    return s.post("/v1/completions", kind)


def text(answer):
    return answer["choices"][0]["text"]


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def wanted():
    with Server(UPG, "--parallel", "2") as s:
        return [text(ask(s, k)) for k in KINDS]


def files(folder):
    return glob.glob(os.path.join(folder, "*", "*.kv"))


def restart(want):
    folder = os.path.join(WORK, "restart")
    with Server(UPG, "--kv-dir", folder) as s:
        assert [text(ask(s, k)) for k in KINDS] == want
        assert s.stop() == 0
    assert files(folder) and all(os.stat(f).st_mode & 0o077 == 0 for f in files(folder))
    with Server(UPG, "--kv-dir", folder) as s:
        answers = [ask(s, k) for k in KINDS]
        assert [text(a) for a in answers] == want
        assert all(cached(a) >= a["usage"]["prompt_tokens"] - 1 for a in answers), [a["usage"] for a in answers]
        assert s.metrics()["upg:kv_disk_loaded_blocks_total"] > 0
        other = subprocess.run([UPG, "serve", "--port", "0", "--kv-dir", folder], capture_output=True, text=True, timeout=30)
        assert other.returncode == 1 and "another process" in other.stderr, other


def killed(want):
    """kill -9 at any time, again and again, while blocks are written."""
    folder, r = os.path.join(WORK, "killed"), random.Random(3)
    for _ in range(8):
        with Server(UPG, "--kv-dir", folder, "--kv-memory", "40M") as s, concurrent.futures.ThreadPoolExecutor(4) as pool:
            for k in KINDS:
                pool.submit(lambda k=k: s.request("POST", "/v1/completions", k | {"prompt": k["prompt"] + str(r.random())}))
            time.sleep(r.uniform(.02, .4))
            s.stop(signal.SIGKILL)
    with Server(UPG, "--kv-dir", folder) as s:
        assert [text(ask(s, k)) for k in KINDS] == want
        assert s.metrics()["upg:kv_disk_damaged_blocks_total"] == 0
    assert not glob.glob(os.path.join(folder, "*", "*.new"))


def damaged(want):
    folder, r = os.path.join(WORK, "restart"), random.Random(5)
    all_ = sorted(files(folder))
    for i, f in enumerate(all_):
        with open(f, "r+b") as f:
            size = os.fstat(f.fileno()).st_size
            if i % 3 == 0:
                f.truncate(r.randrange(size))
            else:
                f.seek(r.randrange(size) if i % 3 == 1 else r.randrange(100))
                f.write(bytes([r.randrange(256) ^ 0x55]) * 8)
    with open(os.path.join(os.path.dirname(all_[0]), "00" * 16 + ".kv"), "wb") as f:
        f.write(b"not a block")
    os.symlink("/etc/passwd", os.path.join(os.path.dirname(all_[0]), "11" * 16 + ".kv"))
    with Server(UPG, "--kv-dir", folder) as s:
        assert [text(ask(s, k)) for k in KINDS] == want
        assert "is ignored and removed" in s.errors()
    assert os.path.exists("/etc/passwd")


def full(want):
    """A disk without room: a block cannot be written, the answers come all the same, and it is said."""
    folder = os.path.join(WORK, "full")
    os.mkdir(folder)
    script = os.path.join(WORK, "small-disk")
    with open(script, "w", encoding="utf-8") as f:
        f.write(f'#!/bin/sh\nmount -t tmpfs -o size=3m none {folder} || exit 9\nexec {UPG} "$@"\n')
    os.chmod(script, 0o755)
    real = os.geteuid() == 0 and subprocess.run(["unshare", "-m", script, "--version"], capture_output=True).returncode == 0
    if real:
        with open(script + "-in", "w", encoding="utf-8") as f:
            f.write(f'#!/bin/sh\nexec unshare -m {script} "$@"\n')
        os.chmod(script + "-in", 0o755)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not real:
        with open(script + "-in", "w", encoding="utf-8") as f:
            f.write(f'#!/bin/sh\ntrap "" XFSZ\nulimit -f 100\nexec {UPG} "$@"\n')
        os.chmod(script + "-in", 0o755)
    try:
        with Server(script + "-in", "--kv-dir", folder, *(["--no-sandbox"] if "/san/" in UPG else [])) as s:
            assert [text(ask(s, k)) for k in KINDS] == want
            until(lambda: s.metrics()["upg:kv_disk_failed_blocks_total"] > 0, 30, "a failed write")
            assert [text(ask(s, k)) for k in KINDS] == want
            assert "could not be kept" in s.errors()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def main():
    want = wanted()
    check("a restarted server knows the prompts", restart, want)
    check("kill -9 while blocks are written", killed, want)
    check("damaged files are ignored, and said so", damaged, want)
    check("a full disk", full, want)
    shutil.rmtree(WORK)
    end()


main()
