"""One answer in the making: tokens, text, and when it is over."""

from anysize.engine.detokenizer import Detokenizer
from anysize.engine.request import Choice, FinishReason, GenerationRequest, Pick, Piece, Span
from anysize.engine.sampler import Sampler
from anysize.family.family import Family, Size


class Answer:
    """One of a request's answers, from its first token to its last.

    Args:
        request: what is answered.
        sample: which of its answers this is.
        family: whose tokenizer makes text of tokens.
        ends: token ids that end the answer and are not part of it.

    Attributes:
        token_ids: so far, the end token not among them.
        first_s: when the first was picked, on the clock of `add`.
        last_s: when the last was picked.
        size: that it is on.
        size_since_s: when the first token of that size was picked.
    """

    def __init__(self, request: GenerationRequest, sample: int, family: Family, ends: frozenset[int]) -> None:
        self._constraint = request.grammar.begin() if request.grammar else None
        self.sampler = Sampler(request.sampling, request.prompt_ids, sample, self._constraint)
        self.size = request.size
        self.token_ids: list[int] = []
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.size_since_s: float | None = None
        self._spans: list[Span] = []
        self._sample = sample
        self._max_tokens = request.sampling.max_tokens
        self._ends = ends
        self._text = Detokenizer(family.tokenizer, request.sampling.stop)
        self._with_logprobs = request.sampling.logprobs is not None
        self._picks: list[Pick] = []
        self._told_picks = 0
        self._reason: FinishReason | None = None

    @property
    def tokens_on_size(self) -> int:
        """How many of its tokens the present size has generated."""
        return self._spans[-1].tokens if self._spans else 0

    @property
    def is_over(self) -> bool:
        """Whether its last token has come."""
        return self._reason is not None

    def add(self, pick: Pick, size: Size, now_s: float) -> None:
        """Take the next token.

        Args:
            pick: the token.
            size: that has generated it.
            now_s: when it was picked.
        """
        if self.first_s is None:
            self.first_s = self.last_s = now_s
        if size is not self.size or self.size_since_s is None:
            self.size, self.size_since_s = size, now_s
        if pick.token_id in self._ends:
            self._reason = "stop"
            return
        self.token_ids.append(pick.token_id)
        if not self._spans or self._spans[-1].size is not size:
            self._spans.append(Span(size, 0))
        self._spans[-1] = Span(size, self._spans[-1].tokens + 1)
        self.last_s = now_s
        if self._with_logprobs:
            self._picks.append(pick)
        is_complete = self._constraint is not None and self._constraint.is_complete
        if self._text.add(pick.token_id) or is_complete:
            self._reason = "stop"
        elif len(self.token_ids) == self._max_tokens:
            self._reason = "length"

    def news(self) -> Piece | None:
        """What has become certain since the last call, if anything has; all that is left once the answer is over."""
        if self.is_over:
            self._text.finish()
        text = self._text.news()
        picks = tuple(self._picks[self._told_picks :])
        self._told_picks = len(self._picks)
        return Piece(self._sample, text, picks) if text or picks else None

    def choice(self) -> Choice:
        """The answer as it stands; cancelled if it is not over."""
        return Choice(
            text=self._text.finish(),
            token_ids=self.token_ids,
            finish_reason=self._reason or "cancelled",
            picks=tuple(self._picks),
            spans=tuple(self._spans),
        )


def end_tokens(family: Family) -> frozenset[int]:
    """The token ids that end an answer."""
    generation = family.bank.teacher.generation_config
    named = generation.eos_token_id if generation is not None else None
    listed = [*(named if isinstance(named, list) else [named]), family.tokenizer.eos_token_id]
    return frozenset(token for token in listed if isinstance(token, int))
