"""Models under the engine: the real one, watched, and a hash whose answers are known; and references for both."""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from fakes import VOCABULARY, WatchedFamily
from torch import Tensor

from anysize.engine.engine import Engine
from anysize.engine.limits import Limits
from anysize.engine.model import Model
from anysize.engine.request import Completion, GenerationRequest
from anysize.engine.sequence import Row
from anysize.engine.stepper import StepModel
from anysize.family.family import Family
from anysize.family.variant import Variant

KV_BYTES = 8 << 20


class WatchedModel(Model):
    """The engine's model over a watched family: its steps are counted there, and can be held up or made to fail."""

    def __init__(self, family: WatchedFamily, *, kv_bytes: int = KV_BYTES) -> None:
        super().__init__(family.bank, kv_bytes=kv_bytes, shared_by=[size.variant for size in family.ladder])
        self._family = family

    def step(self, rows: Sequence[Row]) -> Tensor:
        self._family.steps += 1
        self._family.before_step(rows)
        return super().step(rows)


@dataclass(eq=False)
class StubSequence:
    """A sequence that remembers its tokens."""

    variant: Variant
    pages: int
    token_ids: list[int] = field(default_factory=list)
    border: int = 0
    is_released: bool = False

    @property
    def length(self) -> int:
        return len(self.token_ids)


class HashModel:
    """Page accounting, and a step over remembered tokens whose logits are a hash of all of them and of the variant.

    Args:
        pages: of 4 tokens; a variant with many patched positions takes no more than another.
    """

    page_tokens = 4
    cached_pages = 0

    def __init__(self, pages: int = 1000) -> None:
        self.total_pages = pages
        self.free_pages = pages
        self.held: list[StubSequence] = []
        self.steps = 0
        self.largest_step = 0
        self.before_step: Callable[[Sequence[Any]], None] = lambda rows: None
        self.on_reserve: Callable[[], None] = lambda: None

    @property
    def used_pages(self) -> int:
        return sum(sequence.pages for sequence in self.held)

    def fits(self, variant: Variant, tokens: int) -> bool:
        return self._pages(tokens) <= self.total_pages

    def keeps(self, prompt_tokens: int) -> bool:
        return False

    def reserve(
        self, variant: Variant, tokens: int, prompt_ids: Sequence[int] = (), *, keeps_answer: bool = False
    ) -> StubSequence | None:
        self.on_reserve()
        pages = self._pages(tokens)
        if pages > self.free_pages:
            return None
        self.free_pages -= pages
        self.held.append(sequence := StubSequence(variant, pages))
        return sequence

    def move(self, sequence: StubSequence, variant: Variant, tokens: int, token_ids: Sequence[int]) -> StubSequence:
        self.release(sequence)
        place = self.reserve(variant, tokens, token_ids)
        assert place is not None
        return place

    def release(self, sequence: StubSequence) -> None:
        assert not sequence.is_released, "released twice"
        sequence.is_released = True
        self.held.remove(sequence)
        self.free_pages += sequence.pages

    def step(self, rows: Sequence[Any]) -> Tensor:
        self.steps += 1
        self.largest_step = max(self.largest_step, sum(len(row.token_ids) for row in rows))
        self.before_step(rows)
        assert len({id(row.sequence) for row in rows}) == len(rows)
        for row in rows:
            assert not row.sequence.is_released
            assert row.token_ids
            row.sequence.token_ids += row.token_ids
            assert self._pages(row.sequence.length) <= row.sequence.pages
        wanted = [self.logits(row.sequence) for row in rows if row.wants_logits]
        return torch.stack(wanted) if wanted else torch.empty(0, VOCABULARY)

    def logits(self, sequence: StubSequence) -> Tensor:
        return hashed_logits(sequence.variant, sequence.token_ids)

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self.page_tokens)


def hashed_logits(variant: Variant, token_ids: Sequence[int]) -> Tensor:
    """Logits [V] that any change of any token before, or of the variant, makes different."""
    digest = hashlib.blake2b(f"{variant.id} {list(token_ids)}".encode(), digest_size=8).digest()
    chance = random.Random(digest)
    logits_V = torch.full((VOCABULARY,), -4.0)
    for rank in range(8):
        logits_V[chance.randrange(VOCABULARY)] = 3.0 - rank / 2
    return logits_V


def limits(**given: int) -> Limits:
    """Limits that tests rarely reach."""
    usual = {
        "max_queued_requests": 64,
        "max_queued_tokens": 1_000_000,
        "max_running_requests": 8,
        "max_step_tokens": 64,
        "prefill_chunk_tokens": 16,
    }
    return Limits(**{**usual, **given})


@contextmanager
def running(family: Family, model: StepModel, **given: Any) -> Iterator[Engine]:
    """An engine that is stopped at the end, whatever still runs."""
    times = {name: given.pop(name) for name in ("queue_timeout_s", "stall_s", "on_step") if name in given}
    engine = Engine(family, model, limits(**given), **times)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(within_s=30)


def alone(family: WatchedFamily, request: GenerationRequest, *, chunk: int = 16) -> Completion:
    """What the engine's real model makes of one request with nobody beside it."""
    with running(family, Model(family.bank, kv_bytes=KV_BYTES), prefill_chunk_tokens=chunk) as engine:
        return engine.submit(request).result(timeout=60)


@torch.inference_mode()
def greedy(family: Family, request: GenerationRequest, *, ends: Sequence[int] = ()) -> list[int]:
    """What transformers' own `generate` makes of it, without the token that ended it."""
    prompt_1L = torch.tensor([request.prompt_ids])
    out_1L = family.assemble(request.size.variant).generate(  # pyright: ignore[reportCallIssue]
        prompt_1L,
        attention_mask=torch.ones_like(prompt_1L),
        max_new_tokens=request.sampling.max_tokens,
        do_sample=False,
        eos_token_id=list(ends) or None,
        pad_token_id=0,
    )
    answer = out_1L[0, prompt_1L.shape[1] :].tolist()
    return answer[:-1] if answer[-1] in ends else answer


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something is true."""
    limit_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit_s, "it never came true"
        time.sleep(0.002)
