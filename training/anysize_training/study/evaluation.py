"""Everything that can be measured of the sizes of a family, each measured once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from anysize.family.family import Family, Size
from anysize_training.study.evaluate import Evaluator, by_beginning
from anysize_training.study.measure import int8_evaluator, untrained_quality
from anysize_training.study.quality import Quality
from anysize_training.study.record import Measured, Record
from anysize_training.study.rolling import Rolled, RollingQuality, rolling_quality
from anysize_training.study.tasks import Task, TaskResult
from anysize_training.study.texts import Windows


class Evaluation:
    """Measures sizes of a family with progress bars; what the record knows is not measured again.

    Args:
        family: whose.
        sizes: which.
        record: keeps what is measured.

    Attributes:
        family: whose.
        sizes: which.
    """

    def __init__(self, family: Family, sizes: Sequence[Size], record: Record) -> None:
        self.family = family
        self.sizes = sizes
        self._record = record
        self._scorer: tuple[Windows, Evaluator] | None = None

    def qualities(self, windows: Windows) -> dict[str, Quality]:
        """Perplexity and KL divergence of each size, by id."""
        return self._qualities("perplexity", windows, self._evaluator)

    def int8_qualities(self, windows: Windows) -> dict[str, Quality]:
        """The same with rounded weights. The family's own weights are rounded for good, unless all is known."""
        self._scorer = None
        return self._qualities("perplexity of int8", windows, lambda windows: int8_evaluator(self.family, windows))

    def untrained(self, windows: Windows) -> Quality:
        """The quality of the student before training."""
        kept = self._record.measured(
            "perplexity",
            _made_of(windows),
            "untrained",
            lambda: asdict(untrained_quality(self.family, self._evaluator(windows))),
        )
        return Quality(**kept)

    def words(self, rolled: Rolled) -> dict[str, RollingQuality]:
        """How likely each size finds whole documents, by id."""
        architecture = self.family.bank.architecture

        def make(size: Size) -> Measured:
            return asdict(rolling_quality(self.family.assemble(size.variant), architecture, rolled, size.id))

        made_of = {"pages": rolled.pages.sha256, "context": rolled.context, "tokens": rolled.tokens}
        return {name: RollingQuality(**kept) for name, kept in self._each("words", made_of, make).items()}

    def task(self, task: Task, *, context: int, batch: int) -> dict[str, TaskResult]:
        """What each size reaches in a task, by id.

        Args:
            task: which.
            context: the longest sequence.
            batch: sequences at once; results may differ in the last bits.
        """

        def make(size: Size) -> Measured:
            model = self.family.assemble(size.variant)
            return asdict(task.result(model, self.family.tokenizer, context=context, batch=batch))

        made_of = {**task.made_of, "context": context}
        return {name: TaskResult(**kept) for name, kept in self._each(f"task {task.name}", made_of, make).items()}

    def _evaluator(self, windows: Windows) -> Evaluator:
        if self._scorer is None or self._scorer[0] is not windows:
            self._scorer = windows, Evaluator(self.family.bank, windows)
        return self._scorer[1]

    def _qualities(
        self, measure: str, windows: Windows, evaluator: Callable[[Windows], Evaluator]
    ) -> dict[str, Quality]:
        made: list[Evaluator] = []

        def make(size: Size) -> Measured:
            # What the teacher says of the text is computed first, but not where everything is known already.
            if not made:
                made.append(evaluator(windows))
            return asdict(made[0].quality(size.variant))

        return {name: Quality(**kept) for name, kept in self._each(measure, _made_of(windows), make).items()}

    def _each(self, measure: str, made_of: Mapping[str, Any], make: Callable[[Size], Measured]) -> dict[str, Measured]:
        by_id = {size.variant: size for size in self.sizes}
        with tqdm(by_beginning([*by_id]), desc=measure, unit="size") as progress:
            return {
                variant.id: self._record.measured(measure, made_of, variant.id, lambda size=by_id[variant]: make(size))
                for variant in progress
            }


def _made_of(windows: Windows) -> dict[str, str]:
    return {"text": windows.sha256, "windows": windows.tokens_sha256}
