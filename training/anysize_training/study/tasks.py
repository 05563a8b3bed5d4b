"""Tasks of EleutherAI's lm-evaluation-harness, run on models that are in memory."""

import copy
import difflib
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.errors import SettingsError

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict, TaskManager

# Appendix D of the paper, by the names of the harness.
CLASSIFICATION = (
    "arc_easy",
    "arc_challenge",
    "boolq",
    "hellaswag",
    "openbookqa",
    "piqa",
    "winogrande",
    "race",
    "mmlu",
    "rte",
)
GENERATION = ("gsm8k_cot", "ifeval", "hendrycks_math")
SETS = {"paper": CLASSIFICATION + GENERATION, "paper-classification": CLASSIFICATION, "paper-generation": GENERATION}


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one model reached in one task.

    Attributes:
        metrics: by the harness's names, standard errors among them (`acc`, `acc_stderr`, `exact_match,strict-match`).
        examples: that were asked.
    """

    metrics: dict[str, float]
    examples: int

    @property
    def main(self) -> tuple[str, float]:
        """The metric that the task names first, with its value."""
        return next((name, value) for name, value in self.metrics.items() if "_stderr" not in name)


class Task:
    """One task, or a group of them such as `mmlu`, with its data.

    Args:
        name: of the task.
        loaded: by the harness.
        limit: ask only this many examples of each task in it, the first.

    Attributes:
        name: of the task.
        made_of: what results follow from besides the model: its definition, and the examples that are asked.
    """

    def __init__(self, name: str, loaded: "TaskDict", limit: int | None) -> None:
        self.name = name
        self._loaded = loaded
        self._limit = limit
        digest = hashlib.sha256()
        for one, task in sorted(loaded["tasks"].items()):
            # Functions and data sets show where they lie in memory; what they make of the data is in the examples.
            config = {key: value for key, value in task.dump_config().items() if not callable(value)}
            digest.update(f"{one} {json.dumps(config, sort_keys=True, default=lambda _: None)}\n".encode())
            for _, example in task.doc_iterator(rank=0, limit=limit, world_size=1):
                digest.update(json.dumps(example, sort_keys=True, default=str).encode())
        # Another release may ask otherwise.
        self.made_of = {"task_sha256": digest.hexdigest(), "harness": version("lm_eval")}

    def result(self, model: PreTrainedModel, tokenizer: Tokenizer, *, context: int, batch: int) -> TaskResult:
        """Ask a model.

        Args:
            model: a causal LM; not written to.
            tokenizer: its tokenizer; not written to.
            context: the longest sequence; longer prompts lose their beginning.
            batch: sequences at once.

        Raises:
            SettingsError: the task runs code that a model wrote, which is never done here.
        """
        from lm_eval.defaults import DEFAULT_OTHER_SEED
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        # The harness may give the tokenizer a padding token.
        options: dict[str, Any] = {"tokenizer": copy.deepcopy(tokenizer), "max_length": context, "batch_size": batch}
        harness = HFLM(pretrained=model, **options)  # pyright: ignore[reportCallIssue]  (a decorator hides it)
        for name, task in self._loaded["tasks"].items():
            if getattr(task, "UNSAFE_CODE", False):
                raise SettingsError(f"task {name} runs code that the model writes; such tasks are not run")
            if task.get_config("num_fewshot") is None:
                task.set_config("num_fewshot", 0)
            # Every model gets the same examples in its prompts.
            task.set_fewshot_seed(DEFAULT_OTHER_SEED)
        found: Any = evaluate(harness, self._loaded, limit=self._limit, log_samples=False, bootstrap_iters=1000)
        metrics: dict[str, float] = {
            key.removesuffix(",none"): float(value)
            for key, value in (found.get("groups", {}).get(self.name) or found["results"][self.name]).items()
            if "," in key and isinstance(value, int | float)
        }
        return TaskResult(metrics, sum(count["effective"] for count in found["n-samples"].values()))


def chosen_names(chosen: Iterable[str]) -> list[str]:
    """The names of tasks, without repetition: each word is a task, a set, or several with commas between."""
    words = [word.strip() for text in chosen for word in text.split(",") if word.strip()]
    return list(dict.fromkeys(name for word in words for name in SETS.get(word, (word,))))


def load_tasks(names: Sequence[str], *, limit: int | None = None, include: Path | None = None) -> list[Task]:
    """Find tasks and bring their data, from this machine's cache or from the hub.

    Args:
        names: of tasks or groups.
        limit: examples of each, the first ones.
        include: a folder of task definitions in YAML, which go before the harness's own of the same name. They can
            name Python functions beside them, so the folder is trusted like any program.

    Raises:
        SettingsError: the harness is not installed, there is no such task, or its data cannot be had.
    """
    try:
        import datasets.config
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tasks need lm-evaluation-harness ({error}); install it with: pip install 'anysize[eval]'"
        ) from error
    # Else a server is told of each reading of data, of one's own files too.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    # The harness logs each task that it loads, and that a model in memory ignores options for loading one.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if include is not None and not include.is_dir():
        raise SettingsError(f"--include-path {include} is no folder")
    manager = TaskManager(include_path=include, include_defaults=False) if include else None
    if manager is None or not {*names} <= {*manager.all_tasks}:
        manager = TaskManager(include_path=include)
    _check_names(names, manager)
    return [_load(name, manager, limit) for name in names]


def _check_names(names: Sequence[str], manager: "TaskManager") -> None:
    known = manager.all_tasks
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *SETS], n=3)
            raise SettingsError(f"there is no task {name!r}" + (f"; near are {', '.join(near)}" if near else ""))


def _load(name: str, manager: "TaskManager", limit: int | None) -> Task:
    try:
        return Task(name, manager.load([name]), limit)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise SettingsError(
            f"task {name} cannot be prepared ({type(error).__name__}: {first}); its data must be on this machine, or "
            "the hub in reach"
        ) from error
