"""`anysize-train analyse`: how alike the layers of a family's models are, and what its sizes cost.

The report is one object: `study` (`analyse`), `what` (of the four), `command`, `family`, `teacher` (layers and
fingerprint), `blocks` (first and last teacher layer of each), `dataset`, `dataset_sha256`, `tokens` (null for `flops`),
and `rows`:

- `teacher_layers`: one a teacher layer: `layer`, and `cosines` to all teacher layers.
- `student_layers`: one a student layer: `layer`, `block` (first and last), `cosines` to all teacher layers.
- `last_layer`: one a variant: `variant`, `layers`, `patched` (how many positions), `nested` (whether the patch order
  meets it), `on_ladder`, `cosine`, `cosine_after_norm`.
- `flops`: one a size: `variant`, `layers`, `forward`, `counted_forward`, `distillation`, all a token. Beside the rows
  stand `counted_tokens` (in the window that torch counted), `distilled_tokens`, `training` (`distillation`,
  `interior_sizes`, `ratio`), and `paper`: the same three for each teacher of Table 3, and what the paper prints.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from anysize.console import print_json, say, terminal
from anysize.errors import SettingsError
from anysize.family.family import Family
from anysize.family.order import positions_in_order
from anysize.family.variant import Variant
from anysize_training.commands.family import load_family
from anysize_training.commands.invocation import command_line
from anysize_training.commands.picture import check_picture
from anysize_training.commands.report_file import check_report_file, write_report
from anysize_training.distill.selection.similarity import pairwise_similarity
from anysize_training.study.analyse.flops import family_flops, paper_plans
from anysize_training.study.analyse.last_layer import last_layers
from anysize_training.study.analyse.similarity import student_similarity
from anysize_training.study.analyse.what import What
from anysize_training.study.texts import Text, Windows

Report = dict[str, Any]
Draw = Callable[[Path], None]

_COUNTED_TOKENS = 128


def analyse_family(
    family: Path, what: What, text: Text | None, *, out: Path | None, plot: Path | None, as_json: bool
) -> None:
    """Analyse a family, print what was found, keep it and draw it.

    Args:
        family: its folder, or `builtin`.
        what: the analysis.
        text: to measure on; `flops` wants none.
        out: a JSON file for the report.
        plot: a picture to write, `.png` or `.svg`.
        as_json: print one JSON object instead of a table.

    Raises:
        SettingsError: a file cannot be read or written, or a text is missing.
    """
    if plot is not None:
        check_picture(plot)
    if out is not None:
        check_report_file(out)
    if what != "flops" and text is None:
        raise SettingsError(f"{what} is measured on text; add --text FILE")
    _, loaded = load_family(family)
    windows = text.windows(loaded.tokenizer) if text and what != "flops" else None
    found, draw = _flops(loaded) if windows is None else _on_text(loaded, what, windows)
    assert loaded.manifest is not None
    report: Report = {
        "study": "analyse",
        "what": what,
        "command": command_line(),
        "family": loaded.name,
        "teacher": {
            "layers": loaded.bank.blocks.teacher_layers,
            "fingerprint": loaded.manifest.teacher.fingerprint,
        },
        "blocks": [[block[0], block[-1]] for block in loaded.bank.blocks.blocks],
        "dataset": windows.name if windows else None,
        "dataset_sha256": windows.sha256 if windows else None,
        "tokens": windows.scored if windows else None,
        **found,
    }
    if out is not None:
        write_report(report, out)
    if plot is not None:
        draw(plot)
        say(f"wrote {plot}")
    if as_json:
        print_json(report)
        return
    _print(report)


def _on_text(family: Family, what: What, windows: Windows) -> tuple[Report, Draw]:
    bank = family.bank
    inputs_NL = windows.tokens_NL[:, :-1].to(bank.teacher.device)
    text = f"{windows.scored:,} tokens of {windows.name}"
    if what == "teacher_layers":
        cosines_NN = pairwise_similarity(bank.architecture, bank.teacher, inputs_NL)
        rows = [{"layer": layer, "cosines": row.tolist()} for layer, row in enumerate(cosines_NN)]
        return {"rows": rows}, _heat_map(family, cosines_NN, text, is_student=False)
    if what == "student_layers":
        cosines_MN = student_similarity(bank, inputs_NL)
        blocks = bank.blocks.blocks
        rows = [
            {"layer": layer, "block": [blocks[layer][0], blocks[layer][-1]], "cosines": row.tolist()}
            for layer, row in enumerate(cosines_MN)
        ]
        return {"rows": rows}, _heat_map(family, cosines_MN, text, is_student=True)
    return _last_layers(family, inputs_NL, text)


def _heat_map(family: Family, cosines: Tensor, text: str, *, is_student: bool) -> Draw:
    def draw(path: Path) -> None:
        from anysize_training.study.analyse.figures import save_heat_map

        whose = "student and teacher layers" if is_student else "teacher layers"
        save_heat_map(
            cosines,
            path,
            title=f"{family.name}: how alike the outputs of {whose} are",
            rows="student layer" if is_student else "teacher layer",
            text=text,
            blocks=family.bank.blocks if is_student else None,
        )

    return draw


def _last_layers(family: Family, inputs_NL: Tensor, text: str) -> tuple[Report, Draw]:
    assert family.manifest is not None
    blocks, order = family.bank.blocks, family.manifest.patch_order
    sequence = positions_in_order(order, family.positions)
    nested = [Variant.of(family.positions, sequence[:count]) for count in range(family.positions + 1)]
    ladder = [size.variant for size in family.ladder]
    variants = list(dict.fromkeys([*nested, *ladder]))
    found = {one.variant: one for one in last_layers(family.bank, variants, inputs_NL)}
    rows = [
        {
            "variant": one.variant.id,
            "layers": one.variant.depth(blocks),
            "patched": len(one.variant.patched),
            "nested": one.variant in nested,
            "on_ladder": one.variant in ladder,
            "cosine": one.cosine,
            "cosine_after_norm": one.cosine_after_norm,
        }
        for one in found.values()
    ]

    def draw(path: Path) -> None:
        from anysize_training.study.analyse.figures import save_last_layers

        save_last_layers(
            [found[variant] for variant in nested],
            [found[variant] for variant in ladder],
            path,
            order=order.replace("_", " ") if isinstance(order, str) else "in the family's order",
            title=f"{family.name}: how alike the last layers of its sizes and of the teacher are",
            text=text,
            blocks=blocks,
        )

    return {"rows": rows}, draw


def _flops(family: Family) -> tuple[Report, Draw]:
    flops = family_flops(family, counted_tokens=_COUNTED_TOKENS)
    report: Report = {
        "rows": [asdict(size) for size in flops.sizes],
        "distilled_tokens": flops.tokens,
        "counted_tokens": _COUNTED_TOKENS,
        "training": asdict(flops.training),
        "paper": [
            {"teacher": plan.teacher, **asdict(plan.flops), "paper": asdict(plan.paper) if plan.paper else None}
            for plan in paper_plans()
        ],
    }

    def draw(path: Path) -> None:
        from anysize_training.study.analyse.figures import save_flops

        blocks = family.bank.blocks
        title = f"{family.name}: what sizes cost"
        save_flops(flops, path, title=title, student_layers=blocks.student_layers, teacher_layers=blocks.teacher_layers)

    return report, draw


def _print(report: Mapping[str, Any]) -> None:
    on = f" on {report['tokens']} tokens of {report['dataset']}" if report["dataset"] else ""
    title = f"{report['family']}: {report['what']}{on}"
    if report["what"] in ("teacher_layers", "student_layers"):
        table = Table(
            "layer", "block", "cosine, first of block", "cosine, last of block", "nearest teacher layer", title=title
        )
        for row in report["rows"]:
            cosines = row["cosines"]
            first, last = row.get("block", (row["layer"], row["layer"]))
            others = [layer for layer in range(len(cosines)) if "block" in row or layer != row["layer"]]
            nearest = max(others, key=cosines.__getitem__)
            table.add_row(
                str(row["layer"]),
                f"{first}-{last}",
                f"{cosines[first]:.3f}",
                f"{cosines[last]:.3f}",
                f"{nearest} ({cosines[nearest]:.3f})",
            )
    elif report["what"] == "last_layer":
        table = Table("variant", "layers", "patched", "cosine", "behind the norm", title=title)
        for row in report["rows"]:
            figures = (f"{row['cosine']:.4f}", f"{row['cosine_after_norm']:.4f}")
            table.add_row(row["variant"], str(row["layers"]), str(row["patched"]), *figures)
    else:
        table = Table("variant", "layers", "forward", "counted", "distillation", title=f"{title}, a token")
        for row in report["rows"]:
            figures = (row["forward"], row["counted_forward"], row["distillation"])
            table.add_row(row["variant"], str(row["layers"]), *(f"{value:.3e}" for value in figures))
    terminal.print(table)
    if report["what"] == "flops":
        trained = [
            (report["family"], report["training"], None),
            *((one["teacher"], one, one["paper"]) for one in report["paper"]),
        ]
        for name, training, paper in trained:
            beside = f"; the paper counts {paper['ratio']}" if paper else ""
            line = f"{name}: {training['distillation']:.2e} once, {training['interior_sizes']:.2e} size by size"
            terminal.print(f"{line}: {training['ratio']:.2f} times{beside}", highlight=False, soft_wrap=True)
