"""A client that measures: streams of OpenAI's API by asyncio, without a package that would take the time."""
import asyncio
import json
import statistics
import time


class Answer:
    """first: seconds to the first token; gaps: seconds between tokens' events; text; tokens, as the usage says."""

    def __init__(self):
        self.first, self.gaps, self.text, self.tokens = None, [], "", 0


async def stream(port, path, body, host="127.0.0.1"):
    """One streamed answer, in a connection of its own."""
    a, data = Answer(), json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    start = last = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(status.decode() + (await reader.read()).decode()[-500:])
    while line := await reader.readline():
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            a.tokens = event["usage"]["completion_tokens"]
        for choice in event.get("choices", ()):
            text = choice["text"] if "text" in choice else choice["delta"].get("content")
            if not text:
                continue
            now = time.perf_counter()
            a.text += text
            if a.first is None:
                a.first = now - start
            else:
                a.gaps.append(now - last)
            last = now
    writer.close()
    return a


def quantile(values, q):
    """The smallest value that a share q of all is not above."""
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def milliseconds(values):
    return f"{1e3 * quantile(values, .5):.1f} / {1e3 * quantile(values, .99):.1f} ms"


def spread(values, form=".1f"):
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"
