"""The compiled kernels, called with torch's tensors."""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anysize.engine.kernels.build import build
from anysize.errors import SettingsError


class Kernels:
    """The kernels as functions of float32 tensors on the CPU, all contiguous.

    Args:
        library: made by `build`.

    Raises:
        SettingsError: it cannot be loaded, or does not compute what torch does.
    """

    def __init__(self, library: Path) -> None:
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            raise SettingsError(f"the compiled kernels cannot be loaded: {error}; delete {library}") from error
        self._linear = _function(loaded.anysize_linear, *(c_void_p,) * 5, *(c_int64,) * 3, c_int)
        self._rms_norm = _function(loaded.anysize_rms_norm, *(c_void_p,) * 3, *(c_int64,) * 2, c_double)
        self._silu_times = _function(loaded.anysize_silu_times, *(c_void_p,) * 2, c_int64)
        self._attend = _function(
            loaded.anysize_attend, c_void_p, c_int64, *(c_void_p,) * 4, *(c_int64,) * 4, c_float, c_int
        )
        self._sweep = _function(loaded.anysize_sweep, *(c_void_p,) * 2, c_int64, c_int)
        self._here = threading.local()
        self._check(library)

    @classmethod
    def compiled(cls, say: Callable[[str], None]) -> "Kernels":
        """Compiled for this machine, or taken from the cache.

        Args:
            say: told in one line what is being done, where it takes time.

        Raises:
            SettingsError: there is no compiler, or what it makes is wrong.
        """
        return cls(build(say))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep torch's own threads asleep on this thread, and kernels at as many as there are.

        Once torch's have shared an operation, be it a copy, they wait for the next one for milliseconds, on the cores
        that kernels want.
        """
        self._here.threads = threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            self._here.threads = None

    def linear(
        self, x_TI: Tensor, weight_OI: Tensor, *, scale_O: Tensor | None = None, bias_O: Tensor | None = None
    ) -> Tensor:
        """A linear map of T tokens.

        Args:
            x_TI: the tokens.
            weight_OI: float32, or int8 with a scale.
            scale_O: of the rows of an int8 weight.
            bias_O: or None.

        Returns:
            [T, O].
        """
        (tokens, width), features = x_TI.shape, len(weight_OI)
        out_TO = x_TI.new_empty(tokens, features)
        self._linear(
            weight_OI.data_ptr(),
            None if scale_O is None else scale_O.data_ptr(),
            None if bias_O is None else bias_O.data_ptr(),
            x_TI.data_ptr(),
            out_TO.data_ptr(),
            tokens,
            width,
            features,
            self._threads,
        )
        return out_TO

    def rms_norm(self, x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        """RMS norm: x / sqrt(mean(x^2) + epsilon) * weight, over the last dimension."""
        out = torch.empty_like(x)
        self._rms_norm(
            x.data_ptr(), weight_D.data_ptr(), out.data_ptr(), x.numel() // x.shape[-1], x.shape[-1], epsilon
        )
        return out

    def silu_times_(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) * up, written over `gate`."""
        self._silu_times(gate.data_ptr(), up.data_ptr(), gate.numel())
        return gate

    def attend(
        self, rows_R4: Tensor, query_THD: Tensor, keys_SGD: Tensor, values_SGD: Tensor, page_tokens: int, scaling: float
    ) -> Tensor:
        """One token of each of R rows attends to what its row has stored.

        Args:
            rows_R4: for each row, int64: the address of its page numbers, which of the T tokens it is, the first stored
                token that it sees, and one past the last.
            query_THD: of all packed tokens.
            keys_SGD: of the pool, G dividing H.
            values_SGD: likewise.
            page_tokens: tokens a page holds.
            scaling: of the scores.

        Returns:
            [T, H, D]; what belongs to no row is not set.
        """
        out_THD = torch.empty_like(query_THD)
        heads = keys_SGD.shape[1]
        self._attend(
            rows_R4.data_ptr(),
            len(rows_R4),
            query_THD.data_ptr(),
            keys_SGD.data_ptr(),
            values_SGD.data_ptr(),
            out_THD.data_ptr(),
            page_tokens,
            heads,
            query_THD.shape[1] // heads,
            query_THD.shape[2],
            scaling,
            self._threads,
        )
        return out_THD

    def sweep(self, step: int, visits: int, count: int) -> None:
        """Take the tokens of a step through layers.

        Args:
            step: address of a `Step` of sweep.h.
            visits: address of the first `Visit`.
            count: of visits, one after another in memory.
        """
        self._sweep(step, visits, count, self._threads)

    @property
    def _threads(self) -> int:
        return getattr(self._here, "threads", None) or torch.get_num_threads()

    def _check(self, library: Path) -> None:
        """A compiler may be wrong, or the file may have been damaged since: compare once with torch."""
        generator = torch.Generator().manual_seed(0)
        x_TI, weight_OI, bias_O = (torch.randn(*shape, generator=generator) for shape in ((5, 37), (29, 37), (29,)))
        got, expected = self.linear(x_TI, weight_OI, bias_O=bias_O), F.linear(x_TI, weight_OI, bias_O)
        if not torch.allclose(got, expected, atol=1e-4):
            raise SettingsError(f"the compiled kernels in {library} compute nonsense; delete this file")


def _function(function: Any, *arguments: Any) -> Any:
    function.argtypes, function.restype = arguments, None
    return function
