"""`anysize-train init`: which teacher layers to keep, before any training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from anysize.console import print_json, say, terminal
from anysize.errors import SettingsError
from anysize.family.architectures import architecture_of
from anysize.family.blocks import BlockMap
from anysize.family.pretrained import load_model, load_tokenizer
from anysize.settings import resolve_device
from anysize_training.commands.picture import check_picture
from anysize_training.distill.selection.choose import Outcome, compare
from anysize_training.distill.selection.selection import Method
from anysize_training.distill.teacher import find_teacher
from anysize_training.study.texts import read_windows


def choose_layers(
    teacher: str,
    text: Path,
    methods: Sequence[Method],
    *,
    layers: int,
    longest_block: int,
    first_row: int,
    max_tokens: int,
    window: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Choose kept layers by some methods, score the choices on text that the methods did not see, and print them.

    Args:
        teacher: `builtin:smollm2-135m`, a checkpoint folder, or a hub model's name.
        text: to calibrate on, and behind that to score on.
        methods: in the order in which they are printed.
        layers: student layers, M.
        longest_block: the most layers that one student layer may stand for.
        first_row: of a `.jsonl` file, the first that is read.
        max_tokens: calibrate on this many, and score on as many behind them.
        window: tokens in one window.
        plot: a picture to write, `.png` or `.svg`.
        as_json: print one JSON object instead of a table and lines for the recipe.

    Raises:
        SettingsError: the text is too short, the picture cannot be written, or no block map has these numbers.
    """
    if plot is not None:
        check_picture(plot)
    _, folder = find_teacher(teacher, say)
    model = load_model(folder, dtype=torch.float32, device=resolve_device("auto"))
    windows = read_windows(text, load_tokenizer(folder), length=window, max_tokens=2 * max_tokens, first_row=first_row)
    calibration_NL, held_out_NL = _halves(windows.tokens_NL[:, :-1], text)
    say(f"calibrating on {calibration_NL.numel()} tokens of {windows.name}, scoring on {held_out_NL.numel()} others")
    outcomes: list[Outcome] = []
    for outcome in compare(
        methods,
        architecture_of(model.config, str(folder)),
        model,
        calibration_NL,
        held_out_NL,
        student_layers=layers,
        longest_block=longest_block,
    ):
        say(f"{outcome.method}: KL {outcome.kl:.3f} after {outcome.seconds:.1f} s")
        outcomes.append(outcome)
    name = Path(teacher).name
    title = f"{name}: {layers} of {outcomes[0].selection.blocks.teacher_layers} layers kept, untrained"
    if plot is not None:
        from anysize_training.distill.selection.figure import save_figure

        save_figure(outcomes, plot, title=title, text=f"on {held_out_NL.numel()} tokens of {windows.name}")
        say(f"wrote {plot}")
    if as_json:
        report = {
            "teacher": name,
            "dataset": windows.name,
            "dataset_sha256": windows.sha256,
            "calibration_tokens": calibration_NL.numel(),
            "held_out_tokens": held_out_NL.numel(),
            "layers": layers,
            "longest_block_allowed": longest_block,
            "methods": [_row(outcome) for outcome in outcomes],
        }
        print_json(report)
        return
    table = Table("method", "longest block", "sizes", "KL", "KL, merged", "seconds", title=title)
    for outcome in outcomes:
        selection = outcome.selection
        figures = (str(selection.blocks.longest), str(len(selection.depths)))
        table.add_row(
            outcome.method, *figures, f"{outcome.kl:.3f}", f"{outcome.merged_kl:.3f}", f"{outcome.seconds:.1f}"
        )
    terminal.print(table)
    for outcome in outcomes:
        terminal.print(f"{_strip(outcome.selection.blocks)}  {outcome.method}", highlight=False, soft_wrap=True)
    for outcome in outcomes:
        kept = list(outcome.selection.blocks.kept)
        terminal.print(
            f"initialise: {{method: layers, layers: {kept}}}  # {outcome.method}, KL {outcome.kl:.3f}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _halves(inputs_NL: Tensor, text: Path) -> tuple[Tensor, Tensor]:
    count = len(inputs_NL) // 2
    if count < 1:
        raise SettingsError(
            f"{text}: one window to calibrate on and one to score on are needed; give a longer text, a smaller "
            "--window or more --max-tokens"
        )
    return inputs_NL[:count], inputs_NL[count : 2 * count]


def _row(outcome: Outcome) -> dict[str, object]:
    selection = outcome.selection
    return {
        "method": outcome.method,
        "kept_layers": selection.blocks.kept,
        "longest_block": selection.blocks.longest,
        "sizes": len(selection.depths),
        "score": selection.score,
        "kl": outcome.kl,
        "merged_kl": outcome.merged_kl,
        "seconds": outcome.seconds,
    }


def _strip(blocks: BlockMap) -> str:
    return "".join("■" if layer in blocks.kept else "·" for layer in range(blocks.teacher_layers))
