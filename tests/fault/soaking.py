"""A service under ordinary and hostile requests for a while, and what of the machine it keeps."""

import ctypes
import gc
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count

import psutil
from models import eventually
from serving import RunningService, http_request

_HOSTILE = (
    b"{",
    b'{"prompt": "a", "max_tokens": 1e99}',
    b'{"prompt": "a", "unknown": 1}',
    b'{"prompt": "a", "variant": "p99"}',
    b'{"messages": [{"role": "user", "content": "<|im_end|>"}], "max_tokens": 999999}',
    b"[" * 5000,
    b"\xff" * 100,
)
# Few words, all of which the tokenizer soon knows: it keeps those that it has seen, up to some thousands.
_WORDS = ("sea", "river", "a", "the", "deep", "blue", "is", "0123", "ocean.", "of", "and", "many-sided")
_CLIENTS = 3
# A machine may stand still for a while in so long a time.
_PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds, at rest."""

    rss_bytes: int
    descriptors: int
    threads: int
    answered: int

    @classmethod
    def now(cls, answered: int) -> "Held":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free already is kept by nobody
        process = psutil.Process()
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads(), answered)


@dataclass(frozen=True, slots=True)
class Soaked:
    """What was held at the end of each round; rounds before the first of these warmed the service up."""

    rounds: tuple[Held, ...]

    @property
    def mib_per_10_000(self) -> float:
        """By how much resident memory grows; the slope of Theil and Sen, which single jumps do not move."""
        slopes = [
            (later.rss_bytes - earlier.rss_bytes) / (later.answered - earlier.answered)
            for place, earlier in enumerate(self.rounds)
            for later in self.rounds[place + 1 :]
        ]
        return 10_000 * statistics.median(slopes) / (1 << 20)

    def grown(self, what: Callable[[Held], int]) -> int:
        """By how much something is more at the end than at the start."""
        return what(self.rounds[-1]) - what(self.rounds[0])


def soak(
    service: RunningService, *, rounds: int, requests: int, warm: int = 3, load: float = 1.0, minutes: float = 0
) -> Soaked:
    """Send so many requests in each round, of every kind and size, some of them hostile and some cut off.

    Args:
        service: that is asked.
        rounds: at least, after those that warm the service up.
        requests: in each of them.
        warm: rounds of which nothing is kept. They go as fast as they can.
        load: share of what the last of these rounds showed to be possible, by which requests come afterwards.
        minutes: at least, after the warm rounds.
    """
    held: list[Held] = []
    apart_s, end_s = 0.0, 0.0
    with ThreadPoolExecutor(_CLIENTS) as pool:
        for number in count():
            if number >= warm + rounds and time.monotonic() >= end_s:
                break
            started_s = time.monotonic()
            seeds = range(number * _CLIENTS, (number + 1) * _CLIENTS)
            for done in pool.map(partial(_client, service, requests // _CLIENTS, apart_s), seeds):
                assert done
            if number == warm - 1:
                end_s = time.monotonic() + 60 * minutes
                apart_s = (time.monotonic() - started_s) / (requests // _CLIENTS) / load if load < 1 else 0.0
            eventually(lambda: service.state.engine.state().running + service.state.engine.state().waiting == 0)
            time.sleep(0.1)  # connections that were cut are closed by then
            if number >= warm:
                held.append(Held.now((number + 1) * requests))
    return Soaked(tuple(held))


def _client(service: RunningService, requests: int, apart_s: float, seed: int) -> bool:
    chance = random.Random(seed)
    started_s = time.monotonic()
    sizes = [size.id for size in service.family.ladder]
    with service.client() as client:
        client.timeout = _PATIENCE_S
        for number in range(requests):
            time.sleep(max(0.0, started_s + number * apart_s - time.monotonic()))
            kind = chance.random()
            body = {
                "prompt": " ".join(chance.choices(_WORDS, k=chance.randint(1, 12))),
                "max_tokens": chance.randint(1, 6),
                "variant": chance.choice(sizes),
            }
            if kind < 0.1:
                assert client.post("/generate", content=chance.choice(_HOSTILE)).status_code == 422
            elif kind < 0.2:
                text = b'{"prompt": "abc", "max_tokens": 100, "stream": true}'
                with service.raw() as connection:
                    connection.settimeout(_PATIENCE_S)
                    connection.sendall(http_request(text, f"Content-Length: {len(text)}"))
                    connection.recv(chance.randint(1, 200))
            elif kind < 0.3:
                del body["variant"]
                body |= {"budget": {"min_parameters": 1}, "resize": True, "stream": True}
                assert client.post("/generate", json=body).status_code in {200, 429}
            else:
                assert client.post("/generate", json=body).status_code in {200, 429}
    return True
