"""`anysize-train init`: which teacher layers to keep, before any training."""

from pathlib import Path

import torch

from anysize.console import print_json, say, terminal
from anysize.family.architectures import architecture_of
from anysize.family.pretrained import load_model, load_tokenizer
from anysize.settings import resolve_device
from anysize_training.distill.selection import KLSelection
from anysize_training.distill.teacher import find_teacher
from anysize_training.study.texts import read_windows


def choose_layers(
    teacher: str,
    text: Path,
    *,
    layers: int,
    longest_block: int,
    first_row: int,
    max_tokens: int,
    window: int,
    as_json: bool,
) -> None:
    """Search kept layers and print a line for the recipe."""
    _, folder = find_teacher(teacher, say)
    device = resolve_device("auto")
    model = load_model(folder, dtype=torch.float32, device=device)
    windows = read_windows(text, load_tokenizer(folder), length=window, max_tokens=max_tokens, first_row=first_row)
    architecture = architecture_of(model.config, str(folder))
    inputs_NL = windows.tokens_NL[:, :-1].to(device)
    search = KLSelection(architecture, model, inputs_NL, longest_block=longest_block)
    path = []
    for selection in search.greedy(layers):
        path.append(selection)
        say(f"{selection.blocks.student_layers} layers, KL {selection.kl:.3f}: {list(selection.blocks.kept)}")
    for selection in search.refine(path[-1]):
        path.append(selection)
        say(f"moved one layer, KL {selection.kl:.3f}: {list(selection.blocks.kept)}")
    if as_json:
        rows = [{"kept_layers": selection.blocks.kept, "kl": selection.kl} for selection in path]
        print_json({"teacher": teacher, "dataset": windows.name, "path": rows})
        return
    best = path[-1]
    terminal.print(
        f"student.initialise.layers={list(best.blocks.kept)}  # KL {best.kl:.3f}", highlight=False, soft_wrap=True
    )
