"""Reports drawn as pictures: bars, with whatever bounds them as a line, and points."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anysize.errors import SettingsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _OTHERS, _LIGHT, _LIMIT = "#1b6ca8", ("#8d99ae", "#c9ada7", "#b7b7a4", "#cdb4db"), "#9cc5e3", "#c1121f"
_ASSEMBLY_LIMIT_MS = 5.0
_MEMORY_LIMIT = 1.05
_MB = 1e6


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw a report into a file of any kind that matplotlib knows by its ending.

    Raises:
        SettingsError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError("--plot needs matplotlib; install it with pip install 'anysize[bench]'") from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    panels = _DRAWN[report["benchmark"]]
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_axisbelow(True)
        panel(report, axes)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--plot {path}: {error}") from error


def _single(report: dict[str, Any], axes: "Axes") -> None:
    batches = _between(report, "batch_", "_engine_tokens_per_s")
    found = [way for batch in batches for way in _between(report, f"batch_{batch}_", "_decode_tokens_per_s")]
    ways = [*dict.fromkeys(found)]
    width = 0.8 / len(ways)
    for place, way in enumerate(ways):
        values = [report.get(f"batch_{batch}_{way}_decode_tokens_per_s") for batch in batches]
        spots = [group + (place - (len(ways) - 1) / 2) * width for group in range(len(batches))]
        shown = [(spot, value) for spot, value in zip(spots, values, strict=True) if value is not None]
        color = _OURS if way == "engine" else _OTHERS[(place - 1) % len(_OTHERS)]
        _bars(axes, [spot for spot, _ in shown], [value for _, value in shown], width, _named(way), color)
    for group, batch in enumerate(batches):
        limit = report[f"batch_{batch}_decode_limit_tokens_per_s"]
        axes.hlines(limit, group - 0.45, group + 0.45, color=_LIMIT, linestyle="--", label="" if group else _BANDWIDTH)
    axes.set_xticks(range(len(batches)), [f"batch {batch}" for batch in batches])
    axes.set_ylabel("tokens/s while decoding")
    axes.set_title(f"One size at a time: {report['size']}, {report['layers']} layers")
    axes.legend(frameon=False, loc="upper left")


def _mixed(report: dict[str, Any], axes: "Axes") -> None:
    ways = _between(report, "", "_decode_tokens_per_s")
    spots = range(len(ways))
    for offset, part, label, color in (
        (-0.2, "_tokens_per_s", "prompts and answers", _LIGHT),
        (0.2, "_decode_tokens_per_s", "decoding alone", _OURS),
    ):
        values = [report[f"{way}{part}"] for way in ways]
        _bars(axes, [spot + offset for spot in spots], values, 0.4, label, color)
    limit = report["mixed_decode_limit_tokens_per_s"]
    axes.axhline(limit, color=_LIMIT, linestyle="--", label=f"{_BANDWIDTH}, mixed: {limit:.0f}")
    axes.set_xticks(spots, [textwrap.fill(_named(way), 12) for way in ways])
    axes.set_ylabel("tokens/s")
    axes.set_title(f"{report['requests']} requests over {report['sizes']} sizes")
    axes.legend(frameon=False)


def _build(report: dict[str, Any], axes: "Axes") -> None:
    medians_ms: dict[str, float] = report["size_median_ms"]
    _bars(axes, range(len(medians_ms)), [*medians_ms.values()], 0.7, "median", _OURS, digits=1)
    axes.axhline(_ASSEMBLY_LIMIT_MS, color=_LIMIT, linestyle="--", label=f"{_ASSEMBLY_LIMIT_MS:g} ms")
    axes.set_xticks(range(len(medians_ms)), [*medians_ms], rotation=45, ha="right", fontsize=8)
    axes.set_ylim(0, 1.2 * max(_ASSEMBLY_LIMIT_MS, *medians_ms.values()))
    axes.set_ylabel("ms to assemble")
    axes.set_title(f"Assembly of {report['sizes']} sizes, {report['new_weight_bytes']} new weight bytes")
    axes.legend(frameon=False, loc="upper left")


def _memory(report: dict[str, Any], axes: "Axes") -> None:
    teacher_mb, all_mb = report["teacher_bytes"] / _MB, report["all_sizes_bytes"] / _MB
    drawn = axes.bar([0, 1], [teacher_mb, all_mb], width=0.5, color=_OURS)
    axes.bar_label(drawn, fmt="%.0f", label_type="center", color="white")
    limit_mb = _MEMORY_LIMIT * teacher_mb
    axes.axhline(limit_mb, color=_LIMIT, linestyle="--", label=f"{_MEMORY_LIMIT} times the teacher alone")
    axes.set_xticks([0, 1], ["teacher alone", f"all {report['sizes']} sizes"])
    axes.set_xlim(-0.75, 1.75)
    axes.set_ylim(0, 1.2 * max(limit_mb, all_mb))
    axes.set_ylabel("resident memory, MB")
    axes.set_title("The service after a request to the teacher, and to every size")
    axes.legend(frameon=False, loc="upper left")


def _calibration(report: dict[str, Any], axes: "Axes") -> None:
    pairs = report["steps"]
    for kind, color in (("decode", _OURS), ("prompt", _OTHERS[0])):
        chosen = [pair for pair in pairs if pair["kind"] == kind]
        measured, predicted = ([pair[name] for pair in chosen] for name in ("measured_ms", "predicted_ms"))
        axes.scatter(measured, predicted, s=14, color=color, label=f"{kind} steps")
    ends = [min(pair["measured_ms"] for pair in pairs), max(pair["measured_ms"] for pair in pairs)]
    axes.plot(ends, ends, color=_LIMIT, linestyle="--", label="predicted as measured")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measured, ms")
    axes.set_ylabel("predicted, ms")
    axes.set_title(f"{len(pairs)} steps; median error {100 * report['error_median']:.1f} %")
    axes.legend(frameon=False)


def _quality(report: dict[str, Any], axes: "Axes") -> None:
    pairs = [(size, size["quality"]["perplexity"]) for size in report["variants"] if size["quality"]]
    axes.set_xlabel("inference parameters, millions")
    axes.set_ylabel("perplexity")
    axes.set_title(f"{report['family']}: quality")
    if not pairs:
        _nothing(axes, "not measured;\nanysize-train evaluate measures it")
        return
    axes.plot([_millions(size) for size, _ in pairs], [value for _, value in pairs], "o-", color=_OURS)
    for size, value in pairs:
        axes.annotate(f"{value:.0f}", (_millions(size), value), (4, 4), textcoords="offset points", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.text(0.98, 0.98, f"on {pairs[0][0]['quality']['dataset']}", ha="right", va="top", transform=axes.transAxes)


def _speed(report: dict[str, Any], axes: "Axes") -> None:
    timed = [size for size in report["variants"] if "predicted_tpot_ms" in size]
    axes.set_xlabel("inference parameters, millions")
    axes.set_ylabel("predicted ms a token")
    axes.set_title(f"{report['family']}: speed")
    if not timed:
        _nothing(axes, "not predicted;\nanysize calibrate measures this machine")
        return
    for color, rows in zip((_OURS, _LIGHT, *_OTHERS), timed[0]["predicted_tpot_ms"], strict=False):
        values = [size["predicted_tpot_ms"][rows] for size in timed]
        axes.plot([*map(_millions, timed)], values, "o-", color=color, label=f"batch {rows}")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _millions(size: dict[str, Any]) -> float:
    return size["parameters"] / 1e6


def _nothing(axes: "Axes", why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)


_BANDWIDTH = "limit by memory bandwidth"
_DRAWN: dict[str, Sequence[Callable[[dict[str, Any], "Axes"], None]]] = {
    "single": [_single],
    "mixed": [_mixed],
    "build": [_build],
    "memory": [_memory],
    "calibration": [_calibration],
    "variants": [_quality, _speed],
}


def _bars(
    axes: "Axes", spots: Sequence[float], values: Sequence[float], width: float, label: str, color: str, digits: int = 0
) -> None:
    drawn = axes.bar(spots, values, width=0.94 * width, label=label, color=color)
    axes.bar_label(drawn, fmt=f"%.{digits}f", padding=2, fontsize=8)


def _between(report: dict[str, Any], begin: str, end: str) -> list[str]:
    """What stands between a beginning and an end of the report's keys."""
    return [
        key[len(begin) : -len(end)]
        for key in report
        if key.startswith(begin) and key.endswith(end) and not key.startswith("ratio")
    ]


def _named(way: str) -> str:
    return {"engine": "anysize", "mixed": "one mixed batch"}.get(way, way.replace("_", " "))
