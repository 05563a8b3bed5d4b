"""One step of the engine without its queue: rows from tickets, tokens from logits, text to whoever streams.

Whatever fails on behalf of one request is caught here and ends that request alone.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anysize.engine.answer import Answer, end_tokens
from anysize.engine.job import Run, Share
from anysize.engine.request import Pick
from anysize.engine.sampler import pick
from anysize.engine.sequence import Row
from anysize.engine.stepper import StepModel, answers_at_all, run_rows
from anysize.engine.ticket import Ticket
from anysize.errors import AnysizeError, EngineError
from anysize.family.family import Family

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What a step came to.

    Attributes:
        ran: shares that the model has run.
        over: runs whose answer is complete.
        failed: tickets that must end, and why.
        duration_s: of the model.
        is_broken: whether the model failed on every row, and then on a single harmless token as well.
    """

    ran: list[Share[Ticket]] = field(default_factory=list)
    over: list[Run[Ticket]] = field(default_factory=list)
    failed: dict[Ticket, AnysizeError] = field(default_factory=dict)
    duration_s: float = 0.0
    is_broken: bool = False


class Batch:
    """Runs steps for one family. Used by the model thread alone.

    Args:
        family: whose tokens and text these are.
        model: runs the rows.
    """

    def __init__(self, family: Family, model: StepModel) -> None:
        self._family = family
        self._model = model
        self._ends = end_tokens(family)

    @torch.inference_mode()
    def run(self, shares: Sequence[Share[Ticket]]) -> Outcome:
        """Run the next tokens of some runs, and pick one more for each that is due."""
        outcome = Outcome()
        rows: list[Row] = []
        able: list[Share[Ticket]] = []
        for share in shares:
            try:
                rows.append(self._row(share))
                able.append(share)
            except Exception as error:  # noqa: BLE001  (whatever one request does must not end the others)
                _blame(outcome, share.run, error)
        if not rows:
            return outcome
        started_s = time.monotonic()
        stepped = run_rows(self._model, rows)
        now_s = time.monotonic()
        outcome.duration_s = now_s - started_s
        for number, error in stepped.failed.items():
            outcome.failed.setdefault(able[number].run.job, error)
        if len(stepped.failed) == len(rows):
            outcome.is_broken = not answers_at_all(self._model, self._family.ladder[0].variant)
        outcome.ran = [share for number, share in enumerate(able) if number not in stepped.failed]
        self._hand_out([able[number].run for number in stepped.rows], stepped.logits_RV, now_s, outcome)
        return outcome

    def _row(self, share: Share[Ticket]) -> Row:
        run, ticket = share.run, share.run.job
        if run.sample not in ticket.answers:
            ticket.answers[run.sample] = Answer(ticket.request, run.sample, self._family, self._ends)
        if run.decodes:
            token_ids = ticket.answers[run.sample].token_ids[-1:]
        else:
            token_ids = ticket.token_ids(run.sample)[run.ran_tokens : run.ran_tokens + share.tokens]
        return Row(run.sequence, token_ids, wants_logits=share.ends_prompt_or_decodes)

    def _hand_out(self, runs: list[Run[Ticket]], logits_RV: Tensor, now_s: float, outcome: Outcome) -> None:
        for run, picked in zip(runs, _picked(runs, logits_RV), strict=True):
            ticket = run.job
            answer = ticket.answers[run.sample]
            if isinstance(picked, Exception):
                _blame(outcome, run, picked)
                continue
            try:
                answer.add(picked, ticket.size_of(run.variant), now_s)
                if ticket.on_piece is not None and not ticket.is_over and (piece := answer.news()) is not None:
                    ticket.on_piece(piece)
            except Exception as error:  # noqa: BLE001  (whatever one request does must not end the others)
                _blame(outcome, run, error)
                continue
            if answer.is_over:
                outcome.over.append(run)


def _picked(runs: Sequence[Run[Ticket]], logits_RV: Tensor) -> list[Pick | Exception]:
    """The next token of each run; where picking for all of them fails, for each by itself."""
    if not runs:
        return []
    samplers = [run.job.answers[run.sample].sampler for run in runs]
    try:
        return list(pick(logits_RV, samplers))
    except Exception as error:  # noqa: BLE001  (each row is tried by itself below, and fails alone)
        if len(runs) == 1:
            return [error]
    return [_picked([run], logits_V[None])[0] for run, logits_V in zip(runs, logits_RV, strict=True)]


def _blame(outcome: Outcome, run: Run[Ticket], error: Exception) -> None:
    ticket = run.job
    logger.error("request %s failed", ticket.request.id, exc_info=error)
    if not isinstance(error, AnysizeError):
        error = EngineError(f"the engine failed on this request: {type(error).__name__}")
    outcome.failed.setdefault(ticket, error)
