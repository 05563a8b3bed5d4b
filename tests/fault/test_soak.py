"""A service that is used for long keeps no memory, descriptors or threads; one that does is found out."""

import os
from collections.abc import Iterator

import pytest
from fakes import long_winded_family
from serving import RunningService, serving
from soaking import soak

MOST_MIB = 1.0
MOST_MORE = 2


@pytest.fixture
def service() -> Iterator[RunningService]:
    # Few pages, so that all of them have been written once the service is warm.
    with serving(
        long_winded_family(), kv_bytes=2 << 20, max_body_bytes=1 << 16, max_queued_requests=64, stall_s=3600
    ) as service:
        yield service


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("load", "minutes"),
    [
        pytest.param(1.0, 0, marks=pytest.mark.fault, id="12,000 requests"),
        pytest.param(0.8, 20, marks=pytest.mark.nightly, id="20 minutes"),
    ],
)
def test_nothing_is_kept(service: RunningService, load: float, minutes: float):
    found = soak(service, rounds=8, requests=1500, load=load, minutes=minutes)
    assert found.mib_per_10_000 <= MOST_MIB, found
    assert abs(found.grown(lambda held: held.descriptors)) <= MOST_MORE, found
    assert abs(found.grown(lambda held: held.threads)) <= MOST_MORE, found
    state = service.state.engine.state()
    assert (state.waiting, state.running) == (0, 0)


@pytest.mark.fault
def test_memory_and_descriptors_that_are_kept_would_be_seen(service: RunningService, monkeypatch: pytest.MonkeyPatch):
    kept: list[object] = []
    encoder = type(service.state.encoder)
    check = encoder.check_context

    def leaky(self: object, *arguments: object) -> None:
        kept.append(bytearray(64 << 10))
        if len(kept) % 20 == 0:
            kept.append(os.open(os.devnull, os.O_RDONLY))
        check(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(encoder, "check_context", leaky)
    found = soak(service, rounds=3, requests=150, warm=1)
    for one in kept:
        if isinstance(one, int):
            os.close(one)
    assert found.mib_per_10_000 > MOST_MIB
    assert found.grown(lambda held: held.descriptors) > MOST_MORE
