"""Where Prometheus is; tests that need it are skipped without it, or fail where it must be there."""

import os
import shutil

import pytest


def _found(name: str) -> str:
    if found := shutil.which(name):
        return found
    reason = f"{name} is not on this machine; on Debian and Ubuntu: apt install prometheus"
    if os.environ.get("ANYSIZE_REQUIRE_PROMTOOL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def promtool() -> str:
    return _found("promtool")


@pytest.fixture
def prometheus_binary() -> str:
    return _found("prometheus")
