"""`anysize-train evaluate`: what the sizes of a family are worth, on text and in tasks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from anysize.console import print_json, say, terminal
from anysize.errors import SettingsError
from anysize_training.commands.family import is_checkpoint, load_checkpoint, load_family
from anysize_training.commands.invocation import command_line
from anysize_training.study.evaluation import Evaluation
from anysize_training.study.measure import amend, measurement
from anysize_training.study.pages import read_pages
from anysize_training.study.record import Record, family_fingerprint
from anysize_training.study.rolling import Rolled
from anysize_training.study.tasks import Task, TaskResult, chosen_names, load_tasks
from anysize_training.study.texts import read_windows


@dataclass(frozen=True, slots=True, kw_only=True)
class TextChoice:
    """What is scored of a text.

    Attributes:
        path: the file.
        first_row: of a `.jsonl` file, the first that is read.
        max_tokens: score at most this many, in windows.
        window: tokens scored in one window.
        wikitext: undo WikiText's word tokenisation first.
        words: also score whole documents, by the word.
        max_pages: of documents, only so many, the first.
        untrained: also score the student before training.
        int8: also score each size with the weights that `anysize serve --quantize int8` has.
    """

    path: Path
    first_row: int
    max_tokens: int
    window: int
    wikitext: bool
    words: bool
    max_pages: int | None
    untrained: bool
    int8: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """Which tasks are run.

    Attributes:
        names: of tasks and sets of tasks.
        limit: examples of each, the first.
        include: a folder of task definitions.
        batch: sequences at once.
    """

    names: Sequence[str]
    limit: int | None
    include: Path | None
    batch: int


def evaluate_family(
    family: Path,
    *,
    text: TextChoice | None,
    tasks: TaskChoice | None,
    variants: Sequence[str],
    context: int | None,
    out: Path | None,
    write: bool,
    as_json: bool,
) -> None:
    """Measure sizes of a family, print them, and write them into the folder if asked to.

    Args:
        family: its folder, or `builtin`; or a checkpoint, which is one size and its own teacher.
        text: to score, if any.
        tasks: to run, if any.
        variants: their ids; all of the ladder by default.
        context: the longest sequence of documents and tasks; the teacher's by default.
        out: a file that keeps what is measured.
        write: put perplexities into the family and its card.
        as_json: print one JSON object instead of tables.

    Raises:
        SettingsError: options that do not fit, or a file that cannot be read or written.
    """
    if write and (text is None or variants):
        raise SettingsError(
            "--write puts the perplexity of the whole ladder into the family: give --text, no --variant"
        )
    if write and is_checkpoint(family):
        raise SettingsError(f"--write: {family} is a checkpoint, which keeps no measurements; use --out")
    ready = load_tasks(chosen_names(tasks.names), limit=tasks.limit, include=tasks.include) if tasks else []
    if is_checkpoint(family):
        folder, (loaded, fingerprint) = family, load_checkpoint(family)
    else:
        folder, loaded = load_family(family)
        fingerprint = family_fingerprint(loaded)
    sizes = [loaded.find(name) for name in dict.fromkeys(variants)] or [*loaded.ladder]
    record = Record(loaded.name, fingerprint, out)
    evaluation = Evaluation(loaded, sizes, record)
    context = context or loaded.context_tokens
    rows = {size.id: {"variant": size.id, "layers": size.layers, "fraction": size.fraction} for size in sizes}
    report: dict[str, Any] = {"family": loaded.name}
    # Rounding to int8 is for good, and part of what is done with the text.
    if tasks:
        report |= {"tasks_limit": tasks.limit}
        _run_tasks(rows, evaluation, ready, context=context, batch=tasks.batch)
    if text:
        report |= _score_text(rows, evaluation, text, context, folder if write else None)
    report["sizes"] = [*rows.values()]
    record.conclude(report)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _run_tasks(
    rows: dict[str, dict[str, Any]], evaluation: Evaluation, tasks: Sequence[Task], *, context: int, batch: int
) -> None:
    for task in tasks:
        for variant, result in evaluation.task(task, context=context, batch=batch).items():
            rows[variant].setdefault("tasks", {})[task.name] = asdict(result)


def _score_text(
    rows: dict[str, dict[str, Any]], evaluation: Evaluation, text: TextChoice, context: int, write_to: Path | None
) -> dict[str, Any]:
    family = evaluation.family
    windows = read_windows(
        text.path,
        family.tokenizer,
        length=text.window,
        max_tokens=text.max_tokens,
        detokenise="wikitext" if text.wikitext else "none",
        first_row=text.first_row,
    )
    report: dict[str, Any] = {
        "dataset": windows.name,
        "dataset_sha256": windows.sha256,
        "tokens": windows.scored,
    }
    if text.words:
        pages = read_pages(text.path, wikitext=text.wikitext, first_row=text.first_row, limit=text.max_pages)
        report |= {"pages": len(pages.pages), "pages_sha256": pages.sha256, "words": pages.words, "context": context}
        for variant, found in evaluation.words(Rolled.of(pages, family.tokenizer, context)).items():
            rows[variant] |= {
                "word_perplexity": found.word_perplexity,
                "byte_perplexity": found.byte_perplexity,
                "bits_per_byte": found.bits_per_byte,
                "page_token_perplexity": found.token_perplexity,
            }
    qualities = evaluation.qualities(windows)
    before = evaluation.untrained(windows) if text.untrained else None
    rounded = evaluation.int8_qualities(windows) if text.int8 else {}
    for variant, quality in qualities.items():
        rows[variant] |= {
            "perplexity": quality.perplexity,
            "kl": quality.kl,
            "perplexity_int8": rounded[variant].perplexity if rounded else None,
        }
    report["untrained_student_perplexity"] = before.perplexity if before else None
    if write_to is not None:
        assert family.manifest is not None
        update = {
            "measurements": tuple(
                measurement(size.variant, qualities[size.id], windows, int8=rounded.get(size.id))
                for size in evaluation.sizes
            ),
            "measurements_command": command_line(),
            "untrained": measurement(family.parse("student"), before, windows) if before else None,
        }
        amend(write_to, family, family.manifest.model_copy(update=update))
        say(f"wrote the measurements into {write_to}")
    return report


def _print(report: dict[str, Any]) -> None:
    first = report["sizes"][0]
    if "dataset" in report:
        shown = {"perplexity": ("perplexity", ".2f"), "kl": ("KL", ".3f")}
        if first["perplexity_int8"] is not None:
            shown["perplexity_int8"] = ("int8 perplexity", ".2f")
        if "words" in report:
            shown |= {"word_perplexity": ("word perplexity", ".2f"), "bits_per_byte": ("bits a byte", ".3f")}
        title = f"{report['family']} on {report['dataset']}"
        table = Table("variant", "layers", "fraction", *(name for name, _ in shown.values()), title=title)
        for row in report["sizes"]:
            table.add_row(*_named(row), *(f"{row[key]:{form}}" for key, (_, form) in shown.items()))
        terminal.print(table)
        if report["untrained_student_perplexity"]:
            before = report["untrained_student_perplexity"]
            terminal.print(f"student before training: perplexity {before:,.0f}", highlight=False)
        if "words" in report:
            what = f"word perplexity: {report['words']:,} words of {report['pages']} documents, by whole documents"
            terminal.print(f"{what}, at most {report['context']:,} tokens of context", highlight=False)
    if "tasks" in first:
        table = Table("variant", "layers", "fraction", *first["tasks"], title=f"{report['family']}: tasks")
        for row in report["sizes"]:
            results = [TaskResult(**result) for result in row["tasks"].values()]
            table.add_row(*_named(row), *(f"{result.main[1]:.4f}" for result in results))
        terminal.print(table)
        for name, result in first["tasks"].items():
            one = TaskResult(**result)
            terminal.print(f"{name}: {one.main[0]} on {one.examples:,} examples", highlight=False)


def _named(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["variant"], str(row["layers"]), f"{row['fraction']:.3f}"
