"""Grammars that answers must follow.

llguidance (https://github.com/guidance-ai/llguidance) keeps a parser beside each answer and says, before each token,
which tokens may come next. An answer ends as soon as nothing may follow.
"""

import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor

from anysize.errors import RequestError


class Constraint:
    """What one answer may go on with.

    Args:
        matcher: at the beginning; nobody else's.
        field: of the request that asked for it, for messages.
    """

    def __init__(self, matcher: LLMatcher, field: str) -> None:
        self._matcher = matcher
        self._field = field

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed(self, vocabulary: int) -> Tensor:
        """Which tokens may come next: booleans [V] on the CPU, at least one of them true.

        Raises:
            RequestError: the grammar has become more than a step may take.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        allowed_V = torch.from_numpy(np.unpackbits(bits, bitorder="little").astype(np.bool_))
        if allowed_V.numel() < vocabulary:
            allowed_V = torch.nn.functional.pad(allowed_V, (0, vocabulary - allowed_V.numel()))
        allowed_V = allowed_V[:vocabulary]
        if not bool(allowed_V.any()):
            raise RequestError(f"the answer cannot be brought to an end that {self._field} allows", self._field)
        return allowed_V

    def note(self, token_id: int) -> None:
        """A token has been picked. Whatever is wrong with that is raised by the next `allowed`."""
        self._matcher.consume_token(token_id)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(f"the answer became more complex than {self._field} may be here", self._field)


class Grammar:
    """A compiled grammar. Safe to use from several threads.

    Args:
        matcher: at the beginning; never moved.
        field: of the request that asked for it, for messages.
    """

    def __init__(self, matcher: LLMatcher, field: str) -> None:
        self._matcher = matcher
        self._field = field

    def begin(self) -> Constraint:
        """For an answer of its own."""
        return Constraint(self._matcher.deep_copy(), self._field)
