"""Carrying a sweep out: each run once, wherever it has been run before, and each of its sizes scored once."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from anysize.family.family import Family
from anysize.family.fetch import Say
from anysize.family.files import write_whole
from anysize.family.order import OrderName, nested_ladder
from anysize.settings import resolve_device
from anysize_training.distill.pipeline import distill
from anysize_training.distill.recipe import Recipe
from anysize_training.study.evaluate import Evaluator
from anysize_training.study.sweep.sweep import Arm, Sweep
from anysize_training.study.texts import Text

_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Score:
    """A size of a student of one arm and seed.

    Attributes:
        variant: its id.
        layers: its depth.
        parameters: for inference.
        perplexity: on the text, a token.
        kl: mean KL(teacher || size) of a token, in nats.
    """

    variant: str
    layers: int
    parameters: int
    perplexity: float
    kl: float


@dataclass(frozen=True, slots=True)
class Scored:
    """A run and its sizes, smallest first."""

    arm: str
    seed: int
    scores: tuple[Score, ...]


class Runs:
    """Runs of a sweep, kept in a folder by the hash of their recipes, so that sweeps share what is the same.

    Args:
        folder: of runs and scores.
        text: what sizes are scored on.
        overrides: of every recipe, `dotted.name=value`.
        command: the command line, for the model cards.
        say: told in one line what is being done.
    """

    def __init__(self, folder: Path, text: Text, overrides: list[str], *, command: Sequence[str], say: Say) -> None:
        self._folder = folder
        self._text = text
        self._overrides = overrides
        self._command = command
        self._say = say

    def of(self, sweep: Sweep) -> Iterator[Scored]:
        """All runs of a sweep, as they end; ends early where one is stopped.

        Raises:
            SettingsError: a recipe or a text is wrong, or what was run before was run on another text or teacher.
            DivergedError: a loss is no number.
        """
        # All recipes are read before the first run begins, which may take hours.
        planned = [
            (name, arm, seed, sweep.recipe_of(arm, seed, self._overrides))
            for name, arm in sweep.arms.items()
            for seed in sweep.seeds
        ]
        for number, (name, arm, seed, recipe) in enumerate(planned, start=1):
            self._say(f"{sweep.name}, run {number} of {len(planned)}: {name}, seed {seed}")
            family = self._family(recipe)
            if family is None:
                return
            yield Scored(name, seed, self._scores(family, recipe, arm))

    def _family(self, recipe: Recipe) -> Path | None:
        """Where the run's family is; a finished run is only checked, and None is one that was stopped."""
        out = self._folder / _digest(recipe)
        return distill(recipe, out, resume=(out / "recipe.json").exists(), command=self._command, say=self._say)

    def _scores(self, folder: Path, recipe: Recipe, arm: Arm) -> tuple[Score, ...]:
        order = arm.patch_order or recipe.patch_order
        file = folder.parent / f"scores-{self._key(order, arm)}.json"
        if file.exists():
            return tuple(Score(**score) for score in json.loads(file.read_text(encoding="utf-8")))
        scores = self._scored(folder, order, arm)
        write_whole(file, json.dumps([asdict(score) for score in scores], indent=2) + "\n")
        return scores

    def _scored(self, folder: Path, order: OrderName | tuple[int, ...], arm: Arm) -> tuple[Score, ...]:
        family = Family.load(folder, dtype=torch.float32, device=resolve_device("auto"))
        ladder = nested_ladder(order, family.positions, lambda variant: family.size(variant).footprint.parameters)
        variants = ladder[:1] if arm.only_student else ladder
        qualities = Evaluator(family.bank, self._text.windows(family.tokenizer)).qualities(variants)
        return tuple(
            Score(
                variant.id,
                variant.depth(family.bank.blocks),
                family.size(variant).footprint.parameters,
                qualities[variant.id].perplexity,
                qualities[variant.id].kl,
            )
            for variant in variants
        )

    def _key(self, order: OrderName | tuple[int, ...], arm: Arm) -> str:
        text = asdict(self._text) | {"path": hashlib.sha256(self._text.path.read_bytes()).hexdigest()}
        return hashlib.sha256(json.dumps([text, order, arm.only_student]).encode()).hexdigest()[:_DIGITS]


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:_DIGITS]
