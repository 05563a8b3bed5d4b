"""Greedy answers by the engine's `Model` and by transformers, timed the same way, for benchmarks."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from anysize.engine.kernels.kernels import Kernels
from anysize.engine.memory import token_bytes
from anysize.engine.model import Model, Row
from anysize.engine.sampler import likeliest
from anysize.family.family import Family
from anysize.family.variant import Variant

_TEXT = (
    "The bridge had stood for ninety years before anyone thought to count its rivets. A clerk was sent with a lamp and"
    " a ledger, and for eleven nights he walked the girders, naming each plate by the letter painted on it. He found"
    " more than the drawings promised. Some had been added after the flood, some replaced by bolts, and a few, near"
    " the eastern pier, seemed to hold nothing at all. When the ledger was full he brought it to the office, where the"
    " engineer asked only one question: which of them would you take away? The clerk had no answer, and so the bridge"
    " kept all its rivets, those that carried trains and those that carried only paint, for another forty years."
)


@dataclass(frozen=True, slots=True)
class Work:
    """One request of a benchmark.

    Attributes:
        variant: the size that answers.
        prompt_ids: its prompt.
    """

    variant: Variant
    prompt_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers to some work, all of the same length.

    Attributes:
        token_ids: one list a request, in the order of the work.
        total_s: from the first prompt token to the last answer token.
        decode_s: of that, after the prompts.
        decode_tokens: answer tokens that were made in that time.
    """

    token_ids: list[list[int]]
    total_s: float
    decode_s: float
    decode_tokens: int

    @property
    def tokens_per_s(self) -> float:
        """Answer tokens by the whole time."""
        return sum(map(len, self.token_ids)) / self.total_s

    @property
    def decode_tokens_per_s(self) -> float:
        """Answer tokens after the prompts, by the time after the prompts."""
        return self.decode_tokens / self.decode_s


def prompts(family: Family, count: int, tokens: int) -> list[list[int]]:
    """Prompts of one length out of one passage, each starting at another word."""
    ids: list[int] = family.tokenizer(_TEXT).input_ids
    return [[ids[(7 * number + offset) % len(ids)] for offset in range(tokens)] for number in range(count)]


def passages(count: int, words: int = 24) -> list[str]:
    """Texts of so many words out of one passage, each starting at another word."""
    every = _TEXT.split()
    return [" ".join(every[(5 * number + place) % len(every)] for place in range(words)) for number in range(count)]


def model_for(family: Family, *, requests: int, tokens: int, kernels: Kernels | None = None) -> Model:
    """A `Model` with room for so many requests of so many tokens on the largest size."""
    rounded = tokens + 64
    return Model(family.bank, kv_bytes=requests * rounded * token_bytes(family.bank), kernels=kernels)


def by_engine(model: Model, work: Sequence[Work], answer_tokens: int) -> Answered:
    """All work in one batch: a step for the prompts, then a step for each further token."""
    sequences = []
    for one in work:
        sequence = model.reserve(one.variant, len(one.prompt_ids) + answer_tokens)
        assert sequence is not None, "the benchmark's pool is too small"
        sequences.append(sequence)
    started_s = time.perf_counter()
    tokens = [list(one.prompt_ids) for one in work]
    answers: list[list[int]] = [[] for _ in work]
    prefilled_s = started_s
    for step in range(answer_tokens):
        rows = [Row(sequence, ids, wants_logits=True) for sequence, ids in zip(sequences, tokens, strict=True)]
        tokens = [[token] for token in likeliest(model.step(rows))[1]]
        for answer, token in zip(answers, tokens, strict=True):
            answer.extend(token)
        if step == 0:
            prefilled_s = time.perf_counter()
    done_s = time.perf_counter()
    for sequence in sequences:
        model.release(sequence)
    decode_tokens = len(work) * (answer_tokens - 1)
    return Answered(answers, done_s - started_s, done_s - prefilled_s, decode_tokens)


def by_engine_in_turn(model: Model, work: Sequence[Work], answer_tokens: int) -> Answered:
    """The same engine given one queue a size, one queue after another."""
    return in_turn(work, (by_engine(model, batch, answer_tokens) for _, batch in queues(work)))


def by_transformers(family: Family, work: Sequence[Work], answer_tokens: int) -> Answered:
    """Batched `generate` of transformers, one size after another. Assembling a size is not counted."""
    return in_turn(work, (_generate(family, variant, batch, answer_tokens) for variant, batch in queues(work)))


def queues(work: Sequence[Work]) -> Iterator[tuple[Variant, list[Work]]]:
    """The work of each size."""
    for variant in dict.fromkeys(one.variant for one in work):
        yield variant, [one for one in work if one.variant == variant]


def in_turn(work: Sequence[Work], answered: Iterator[Answered]) -> Answered:
    """The answers of queues that came one after another, in the order of the work."""
    parts = [*answered]
    by_queue = {variant: iter(part.token_ids) for (variant, _), part in zip(queues(work), parts, strict=True)}
    return Answered(
        [next(by_queue[one.variant]) for one in work],
        sum(part.total_s for part in parts),
        sum(part.decode_s for part in parts),
        sum(part.decode_tokens for part in parts),
    )


class _Clock:
    """Looks like one of transformers' stopping criteria; notes when the first token is there and never stops."""

    def __init__(self) -> None:
        self.first_s: float | None = None

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_given: object) -> torch.Tensor:
        if self.first_s is None:
            self.first_s = time.perf_counter()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _generate(family: Family, variant: Variant, batch: Sequence[Work], answer_tokens: int) -> Answered:
    model = family.assemble(variant)
    prompt_BL = torch.tensor([one.prompt_ids for one in batch], device=model.device)
    clock = _Clock()
    started_s = time.perf_counter()
    out_BL = model.generate(  # pyright: ignore[reportCallIssue]
        prompt_BL,
        attention_mask=torch.ones_like(prompt_BL),
        max_new_tokens=answer_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        stopping_criteria=[clock],
    )
    done_s = time.perf_counter()
    assert clock.first_s is not None
    answers = out_BL[:, prompt_BL.shape[1] :].tolist()
    return Answered(answers, done_s - started_s, done_s - clock.first_s, len(batch) * (answer_tokens - 1))
