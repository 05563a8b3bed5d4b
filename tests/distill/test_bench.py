"""The training benchmark: that both contenders do the same work, and what it prints."""

import json

import pytest
from typer.testing import CliRunner

from anysize.errors import AnysizeError
from anysize_training.bench import throughput
from anysize_training.bench.throughput import bench_throughput
from anysize_training.bench.workload import Workload
from anysize_training.cli import app

SMALL = ["--rows", "1", "--sequence-length", "16", "--steps", "1"]


@pytest.mark.parametrize("kind", ["full", pytest.param("delta", marks=pytest.mark.fault)])
def test_both_contenders_compute_the_same_losses(kind: str) -> None:
    done = CliRunner().invoke(app, ["bench", "--kind", kind, *SMALL, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    ours, theirs = report["losses"]["pipeline"], report["losses"]["plain"]
    assert len(ours) == len(theirs) == 2
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[1] != pytest.approx(ours[0], rel=1e-3)
    for key in ("tokens_per_s", "peak_bytes"):
        assert report[f"ratio_{key}"] == pytest.approx(report["pipeline"][key] / report["plain"][key])


def test_contenders_that_disagree_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, _workload: Workload):
        return {"tokens_per_s": 1.0, "peak_bytes": 1, "losses": [3.0 if name == "plain" else 4.0]}

    monkeypatch.setattr(throughput, "_in_process_of_its_own", run)
    with pytest.raises(AnysizeError, match="do not compute the same"):
        bench_throughput(Workload(steps=1), rounds=1)
