"""What both contenders of the training benchmark do: the same pair, the same rows, the same objective."""

import resource
import sys
from dataclasses import dataclass

import torch

from anysize.family.architectures import architecture_of
from anysize.family.bank import Bank
from anysize.family.fetch import cache_folder
from anysize.family.pretrained import load_model, load_tokenizer
from anysize.settings import resolve_device
from anysize_training.distill.corpus import Corpus, load_corpus
from anysize_training.distill.initialise import initial_bank
from anysize_training.distill.recipe import Data, Objective, Recipe, Run, Student
from anysize_training.distill.teacher import find_teacher


@dataclass(frozen=True, slots=True)
class Workload:
    """One distillation, cut short.

    Attributes:
        kind: of the student, which keeps every second layer as the paper's do.
        rows: in one optimizer step.
        sequence_length: tokens of a row.
        steps: that are timed, after one that is not.
    """

    kind: str = "full"
    rows: int = 4
    sequence_length: int = 512
    steps: int = 3

    @property
    def tokens(self) -> int:
        """In one optimizer step."""
        return self.rows * self.sequence_length

    def recipe(self) -> Recipe:
        """The same as a recipe, with the objective and optimizer of Table 2."""
        run = Run(steps=self.steps + 1, batch_size=self.rows, micro_batch_size=self.rows)
        data = Data(source="recipe:tiny.txt", sequence_length=self.sequence_length, packing="stream")
        student = Student.model_validate({"kind": self.kind, "rank": 32})
        # Where a Trainer gets hidden states from transformers, the last one is after the norm.
        objective = Objective(last_pair="after_norm")
        return Recipe(
            name="bench", teacher="builtin:smollm2-135m", student=student, data=data, objective=objective, run=run
        )

    def load(self) -> tuple[Bank, Corpus]:
        """Teacher, untrained student, and rows; the text is short and repeats."""
        recipe = self.recipe()
        _, folder = find_teacher(recipe.teacher, lambda _line: None)
        teacher = load_model(folder, dtype=torch.float32, device=resolve_device("auto"))
        bank = initial_bank(recipe.student, teacher, architecture_of(teacher.config, str(folder)), seed=0)
        private = cache_folder() / "tokens" / "bench"
        corpus = load_corpus(recipe.data, load_tokenizer(folder), rows=self.rows, seed=0, private=private)
        return bank, corpus


def peak_bytes() -> int:
    """The most memory this process has held: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
