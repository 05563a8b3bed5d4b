"""Reports become files that are pictures."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fakes import byte_tokenizer, tiny_bank
from matplotlib import image

from anysize.bench.build import bench_build
from anysize.bench.contenders import Places
from anysize.bench.mixed import bench_mixed
from anysize.bench.plot import draw
from anysize.bench.single import bench_single
from anysize.errors import SettingsError
from anysize.family.family import Family

SHORT: dict[str, Any] = {"prompt_tokens": 5, "answer_tokens": 3, "rounds": 1, "places": Places(), "say": str}


@cache
def family() -> Family:
    return Family("tiny", tiny_bank("llama", kind="delta"), byte_tokenizer())


def reports() -> dict[str, dict[str, Any]]:
    return {
        "build": bench_build(family(), rounds=3),
        "single": bench_single(family(), family().teacher, batches=[1, 2], against=["transformers"], **SHORT),
        "mixed": bench_mixed(family(), requests=3, sizes=2, against=["per-size-queues"], **SHORT),
        "memory": {"benchmark": "memory", "sizes": 3, "teacher_bytes": 9, "all_sizes_bytes": 10},
    }


def test_each_report_is_drawn_as_bars_under_a_line(tmp_path: Path):
    for name, report in reports().items():
        draw(report, path := tmp_path / f"{name}.png")
        pixels = image.imread(path)
        assert pixels.shape[:2] == (675, 1200)
        red = (pixels[..., 0] > 0.7) & (pixels[..., 1] < 0.2)
        assert red.any(), f"{name} shows no limit"


def test_where_it_cannot_be_written_is_said(tmp_path: Path):
    report = reports()["memory"]
    with pytest.raises(SettingsError, match=r"--plot .*nowhere.*No such file"):
        draw(report, tmp_path / "nowhere" / "plot.png")
    with pytest.raises(SettingsError, match=r"--plot .*plot.what.*not supported"):
        draw(report, tmp_path / "plot.what")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SettingsError, match=r"anysize\[bench\]"):
        draw({"benchmark": "memory"}, tmp_path / "plot.png")
