"""`POST /v1/completions`: prompts, and texts that go on from them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, model_validator

from anysize.api.access import AnswerRoute
from anysize.api.answer import TokenTexts
from anysize.api.answering import Encoded, Prepared, TpotHeader, TtftHeader
from anysize.api.openai.answers import AnysizeOut, Finish, Head, OpenAIUsage, finish_of
from anysize.api.openai.options import NotSupported, Options
from anysize.api.openai.routes import ERRORS, EVENTS
from anysize.api.openai.writer import Writer, answered, joined
from anysize.api.state import Service, ServiceState
from anysize.engine.request import Completion, Pick, Piece
from anysize.errors import RequestError

router = APIRouter(route_class=AnswerRoute)

_MAX_CHARS = 10_000_000
_MAX_PROMPTS = 64
# OpenAI's.
_DEFAULT_TOKENS = 16

_Text = Annotated[str, Field(min_length=1, max_length=_MAX_CHARS)]
_Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1, max_length=1_000_000)]


class CompletionIn(Options):
    """Prompts, what their answers may cost, and how tokens are picked."""

    prompt: (
        _Text
        | _Ids
        | Annotated[list[_Text], Field(min_length=1, max_length=_MAX_PROMPTS)]
        | Annotated[list[_Ids], Field(min_length=1, max_length=_MAX_PROMPTS)]
    ) = Field(description="a text, token ids, or several of either")
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = Field(default=None, description="begin each text with its prompt; not together with logprobs")
    best_of: Annotated[int | None, Field(ge=1, le=1, description="nothing but 1 is supported")] = None
    suffix: Annotated[str | None, NotSupported, Field(description="not supported")] = None

    @model_validator(mode="after")
    def _no_logprobs_of_prompts(self) -> Self:
        if self.echo and self.logprobs is not None:
            raise ValueError("echo and logprobs together are not supported: a prompt's logprobs are not computed")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each of them."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [[token for token in prompt if isinstance(token, int)]]
        return [one for one in prompt if not isinstance(one, int)]


class CompletionLogprobs(BaseModel):
    """Of each token: its text, its logprob, the likeliest in its place, and where it begins in the text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]

    @classmethod
    def of(cls, picks: Sequence[Pick], texts: TokenTexts, start: int = 0) -> Self:
        """From picked tokens whose logprobs were asked for."""
        tokens = [texts.of(pick.token_id) for pick in picks]
        offsets = [start]
        for token in tokens:
            offsets.append(offsets[-1] + len(token))
        # Two tokens of one text are one key; the likelier counts.
        top = [{texts.of(one.token_id): one.logprob for one in reversed(pick.top)} for pick in picks]
        return cls(
            tokens=tokens,
            token_logprobs=[pick.logprob or 0.0 for pick in picks],
            top_logprobs=top,
            text_offset=offsets[:-1],
        )


class CompletionChoice(BaseModel):
    """One text; in a stream a part of it, and `finish_reason` in the last."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Finish | None = None


class CompletionOut(BaseModel):
    """The answer, or a chunk of it. `anysize` says which size answered; OpenAI has no such field."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: OpenAIUsage | None = None
    anysize: AnysizeOut | None = None


@router.post(
    "/v1/completions",
    summary="Go on from a prompt",
    response_model=CompletionOut,
    responses=ERRORS | {200: EVENTS},
)
async def completions(
    body: CompletionIn,
    http: Request,
    service: Service,
    x_slo_ttft_ms: TtftHeader = None,
    x_slo_tpot_ms: TpotHeader = None,
) -> CompletionOut | Response:
    """As OpenAI's, with `budget` beside it. `n` answers to each prompt, those of the first prompt first."""
    slo_ms = (x_slo_ttft_ms, x_slo_tpot_ms)
    return await answered(body, http, service, slo_ms, prefix="cmpl", encode=_encoded, writer=CompletionWriter)


class CompletionWriter(Writer[CompletionIn, CompletionChoice]):
    """Words the answers to prompts."""

    def __init__(self, body: CompletionIn, head: Head, prepared: Sequence[Prepared], texts: TokenTexts) -> None:
        super().__init__(body, head, prepared, texts)
        self._offsets: dict[int, int] = {}

    def whole(self, completions: Sequence[Completion]) -> CompletionOut:
        """The plain answer."""
        choices = [
            CompletionChoice(
                index=self._index(place, sample),
                text=self._prompt(place) + choice.text,
                logprobs=self._logprobs(choice.picks),
                finish_reason=finish_of(choice.finish_reason),
            )
            for place, completion in enumerate(completions)
            for sample, choice in enumerate(completion.choices)
        ]
        return CompletionOut(
            **self._head.fields(),
            choices=choices,
            usage=OpenAIUsage.of(self._prepared, completions),
            anysize=AnysizeOut.of(self._prepared, completions),
        )

    def begun(self) -> bytes:
        """The prompts, where they were asked for."""
        if not self._body.echo:
            return b""
        choices = [
            CompletionChoice(index=self._index(place, sample), text=self._prompt(place))
            for place in range(len(self._prepared))
            for sample in range(self._body.samples)
        ]
        return joined([self._chunk(choice) for choice in choices])

    def text(self, place: int, piece: Piece) -> bytes:
        """A chunk."""
        index = self._index(place, piece.sample)
        logprobs = self._logprobs(piece.picks, self._offsets.get(index, 0))
        if logprobs is not None:
            self._offsets[index] = self._offsets.get(index, 0) + sum(map(len, logprobs.tokens))
        return joined([self._chunk(CompletionChoice(index=index, text=piece.text, logprobs=logprobs))])

    def _ends(self, completions: Sequence[Completion]) -> list[CompletionChoice]:
        return [
            CompletionChoice(index=self._index(place, sample), text="", finish_reason=finish_of(choice.finish_reason))
            for place, completion in enumerate(completions)
            for sample, choice in enumerate(completion.choices)
        ]

    def _chunk(self, choice: CompletionChoice | None = None, **more: Any) -> str:
        out = CompletionOut(**self._head.fields(), choices=[choice] if choice else [], **more)
        return out.model_dump_json(exclude=None if more else {"usage", "anysize"})

    def _index(self, place: int, sample: int) -> int:
        return place * self._body.samples + sample

    def _prompt(self, place: int) -> str:
        if not self._body.echo:
            return ""
        prompt = self._body.prompts[place]
        return prompt if isinstance(prompt, str) else "".join(map(self._texts.of, prompt))

    def _logprobs(self, picks: Sequence[Pick], start: int = 0) -> CompletionLogprobs | None:
        return None if self._body.logprobs is None else CompletionLogprobs.of(picks, self._texts, start)


def _encoded(body: CompletionIn, service: ServiceState) -> Encoded:
    encoder, prompts = service.encoder, body.prompts
    max_tokens = body.longest or _DEFAULT_TOKENS
    encoder.check_tokens(max_tokens, len(prompts) * body.samples)
    encoder.check_chars(sum(len(prompt) for prompt in prompts if isinstance(prompt, str)))
    vocabulary = service.family.bank.teacher.config.vocab_size
    encoded: list[list[int]] = []
    for prompt in prompts:
        ids = encoder.prompt(prompt) if isinstance(prompt, str) else prompt
        if max(ids) >= vocabulary:
            raise RequestError(f"token {max(ids)} is none of the {vocabulary} of this model", "prompt")
        encoder.check_context(ids, max_tokens)
        encoded.append(ids)
    return Encoded(encoded, body.sampling(max_tokens=max_tokens, logprobs=body.logprobs))
