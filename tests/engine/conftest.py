"""What tests of the engine share."""

import shutil

import pytest

from anysize.engine.kernels.kernels import Kernels


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """Compiled into a cache of the tests' own."""
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYSIZE_CACHE", str(tmp_path_factory.mktemp("kernels")))
        return Kernels.compiled(print)
