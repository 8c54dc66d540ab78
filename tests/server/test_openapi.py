"""schemathesis over the server's own description: valid requests are answered as it says, invalid ones refused, nothing fails.
Usage: test_openapi.py UPG SCHEMATHESIS"""
import os
import subprocess
import sys
import tempfile

from harness import Server, check, end

UPG, TOOL = sys.argv[1:]
# Stateful chains have nothing to chain here; a positive example may still be refused (a token that is not in the vocabulary).
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def conformance():
    with tempfile.TemporaryDirectory() as work, Server(UPG, "--parallel", "4", "--timeout", "5") as s:
        r = subprocess.run([TOOL, "run", s.url + "/openapi.json", "--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "25",
                            "--seed", "1", "--request-timeout", "30", "--workers", "2", "--no-color"], capture_output=True, text=True, timeout=600,
                           cwd=work, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        assert r.returncode == 0, r.stdout[-6000:] + r.stderr[-2000:]
        assert s.request("GET", "/health")[0] == 200 and s.process.poll() is None


check("schemathesis: answers are as openapi.json says", conformance)
end()
