"""Requests as no client would send them, each made of a seed, and what comes back read as HTTP."""

import io
import random
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from typing import Any, cast

BODY = b'{"prompt": "abc", "max_tokens": 2, "stop": "never"}'
_HEAD_BYTES = 64 << 10

# What is sent, and whether a service that accepts it does wrong.
Case = tuple[bytes, bool]


def mutated(seed: int) -> Case:
    """One hostile request."""
    chance = random.Random(seed)
    return _WAYS[seed % len(_WAYS)](chance)


def statuses(answer: bytes) -> list[int]:
    """Of all responses in what a connection brought.

    Raises:
        AssertionError: it is no HTTP.
    """
    read, found = io.BytesIO(answer), []
    while read.tell() < len(answer):
        response = HTTPResponse(cast(Any, _Bytes(read)))
        try:
            response.begin()
            response.read()
        except (HTTPException, ValueError, OSError) as error:
            raise AssertionError(f"no HTTP: {answer!r}") from error
        found.append(response.status)
    return found


class _Bytes:
    """What `HTTPResponse` takes for a socket; it leaves the bytes of the next response where they are."""

    def __init__(self, read: io.BytesIO) -> None:
        self._read = read

    def makefile(self, _mode: str) -> Any:
        return _Unclosed(self._read)


class _Unclosed:
    def __init__(self, read: io.BytesIO) -> None:
        self._read = read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read, name)

    def close(self) -> None:
        pass


def _request(
    *headers: bytes,
    line: bytes = b"POST /generate HTTP/1.1",
    body: bytes = BODY,
    host: bytes = b"Host: x",
    end: bytes = b"\r\n",
) -> bytes:
    return end.join((line, host, b"Content-Type: application/json", *headers)) + end + end + body


def _length(body: bytes = BODY) -> bytes:
    return b"Content-Length: %d" % len(body)


def _chunked(body: bytes = BODY, size: bytes | None = None) -> bytes:
    return (b"%x" % len(body) if size is None else size) + b"\r\n" + body + b"\r\n0\r\n\r\n"


_CHUNKED = b"Transfer-Encoding: chunked"


def _large_head(chance: random.Random) -> Case:
    value = chance.choice((b"a", b"\xff", b" ", b"\t,")) * (2 * _HEAD_BYTES)
    many = b"\r\n".join(b"X-%d: %d" % (place, chance.getrandbits(32)) for place in range(12_000))
    return chance.choice(
        (
            (_request(b"X-Large: " + value, _length()), True),
            (_request(b"X" * 2 * _HEAD_BYTES + b": a", _length()), True),
            (_request(many, _length()), True),
            (_request(_length(), line=b"GET /" + b"a" * 3 * _HEAD_BYTES + b" HTTP/1.1"), True),
            (_request(b"X-Large: " + b"a" * (_HEAD_BYTES - 500), _length()), False),
        )
    )


def _two_lengths(chance: random.Random) -> Case:
    smuggled = b"0\r\n\r\n" + _request(_length())
    return chance.choice(
        (
            (_request(_CHUNKED, _length(smuggled), body=smuggled), True),
            (_request(b"Content-Length: 4", _CHUNKED, body=_chunked()), True),
            (_request(_length(), b"Content-Length: %d" % (len(BODY) + 1)), True),
            (_request(_CHUNKED, b"Transfer-Encoding: identity", body=_chunked()), True),
            (_request(b"Transfer-Encoding: gzip, chunked", body=_chunked()), True),
            (_request(b"Transfer-Encoding: \x0bchunked", body=_chunked()), True),
            (_request(b"Transfer-Encoding : chunked", body=_chunked()), True),
            (_request(_length(), _length()), False),
        )
    )


def _odd_length(chance: random.Random) -> Case:
    number = chance.choice(
        (b"-1", b"+51", b"0x33", b"1e2", b"5 1", b"51, 52", b"\xd9\xa5\xd9\xa1", b"9" * 30, b"", b"51;")
    )
    return _request(b"Content-Length: " + number), True


def _odd_chunks(chance: random.Random) -> Case:
    size = chance.choice(
        (b"zz", b"-33", b"0x33", b"+33", b"f" * 20, b"", b" 33", b"3\n3", b"33\x00", b"33;" + b"a" * 200_000)
    )
    if chance.random() < 0.3:
        return _request(_CHUNKED, body=_chunked()[: -chance.randint(1, 8)]), True
    return _request(_CHUNKED, body=_chunked(size=size)), True


def _bad_bytes(chance: random.Random) -> Case:
    bad = chance.choice((b"\x00", b"\r", b"\n", b"\x7f", b"\x01\x02"))
    return chance.choice(
        (
            (_request(_length(), line=b"POST /gen" + bad + b"erate HTTP/1.1"), True),
            (_request(b"X-A" + bad + b": b", _length()), True),
            (_request(_length(), line=b"PO" + bad + b"ST /generate HTTP/1.1"), True),
            (_request(b"X-A: b" + bad + b"c", _length()), False),  # HTAB and obs-text are allowed; h11 decides
        )
    )


def _odd_line(chance: random.Random) -> Case:
    target = chance.choice(
        (b"*", b"http://other/generate", b"//generate", b"/%00", b"/%ff/%2e%2e/", b"/generate?" + b"&" * 9000)
    )
    version = chance.choice((b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b"HTTP/0.9", b"HTTP/2.0", b"", b"HTCPCP/1.0"))
    method = chance.choice((b"POST", b"post", b"CONNECT", b"TRACE", b"PRI", b"\x16\x03\x01", b"A" * 9000))
    return _request(_length(), line=b" ".join((method, target, version))), False


def _odd_heads(chance: random.Random) -> Case:
    headers = chance.choice(
        (
            (b"Expect: 100-continue",),
            (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: eA=="),
            (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
            (b"Host: y",),
            (b"X-Folded: a", b"\tb"),
            (b": nameless",),
            (b"no colon",),
            (b"Authorization: Bearer \xff\xfe",),
            (b"x-slo-ttft-ms: \xc3\x28",),
            (b"Accept: " + b"*/*," * 5000,),
        )
    )
    host = chance.choice((b"Host: x", b"Host:", b"Host: a/?x=", b"X-No-Host: x"))
    return _request(*headers, _length(), host=host), False


def _pipelined(chance: random.Random) -> Case:
    one = (
        _request(_length()),
        _request(_CHUNKED, body=_chunked()),
        _request(body=b"", line=b"GET /ready HTTP/1.1"),
        _request(_length(b"{"), body=b"{"),
    )
    return b"".join(chance.choices(one, k=chance.randint(2, 12))) + chance.choice((b"", b"\0", b"GET")), False


def _cut(chance: random.Random) -> Case:
    whole = _request(_CHUNKED, body=_chunked()) if chance.random() < 0.5 else _request(_length())
    return whole[: chance.randrange(len(whole))], True


def _changed(chance: random.Random) -> Case:
    whole = bytearray(_request(_CHUNKED, body=_chunked()) if chance.random() < 0.5 else _request(_length()))
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(whole))
        whole[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
    return bytes(whole), False


def _noise(chance: random.Random) -> Case:
    return chance.randbytes(chance.choice((1, 30, 3000, 100_000))), True


def _bare_lines(chance: random.Random) -> Case:
    return _request(_length(), end=chance.choice((b"\n", b"\r", b"\r\r\n", b"\n\r"))), False


_WAYS: tuple[Callable[[random.Random], Case], ...] = (
    _large_head,
    _two_lengths,
    _odd_length,
    _odd_chunks,
    _bad_bytes,
    _odd_line,
    _odd_heads,
    _pipelined,
    _cut,
    _changed,
    _noise,
    _bare_lines,
)
