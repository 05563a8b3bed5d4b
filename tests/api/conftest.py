"""Services that the tests of the HTTP interface speak to."""

from collections.abc import Iterator

import pytest
from fakes import long_winded_family
from serving import RunningService, serving


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningService]:
    """One service for tests that leave nothing behind."""
    with serving(long_winded_family()) as service:
        yield service


@pytest.fixture
def service() -> Iterator[RunningService]:
    """A service of one's own: one request at a time, a queue of two, answers as long as asked for."""
    limits = {"max_running_requests": 1, "max_queued_requests": 2, "max_body_bytes": 4096}
    with serving(long_winded_family(), **limits) as service:  # pyright: ignore[reportArgumentType]
        yield service
