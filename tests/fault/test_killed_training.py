"""A run that is killed again and again ends with the same bits as one that was left in peace."""

import json
import signal
from pathlib import Path
from random import Random

import pytest
from forked import in_processes
from killed import PLACES, distil
from safetensors.torch import load_file


def run(out: Path, cache: Path, place=None, count: int = 0) -> int:
    """Run the tiny recipe in a process of its own; its exit code, which is negative for a signal."""
    return in_processes(1, distil, out, [f"data.cache={cache}", "run.device=cpu"], place, count)[0]


def series(out: Path) -> list[dict]:
    """The journal without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.fault)])
def test_a_run_that_is_killed_ends_with_the_same_bits(kills: int, tmp_path: Path) -> None:
    assert run(tmp_path / "whole", tmp_path / "cache") == 0
    random = Random(kills)
    places = ["weights", "moments", *random.choices(PLACES, k=kills - 2)]
    random.shuffle(places)
    for place in places:
        # A save comes every third step, so that the run gets on between its deaths.
        count = random.randint(1, 4) if place in ("step", "journal") else 1
        assert run(tmp_path / "cut", tmp_path / "cache", place, count) in (-signal.SIGKILL, 0)
    assert run(tmp_path / "cut", tmp_path / "cache") == 0
    assert series(tmp_path / "cut") == series(tmp_path / "whole")
    for file in ("family/student.safetensors", "checkpoints/step-00000012/weights.safetensors"):
        ours, theirs = load_file(tmp_path / "cut" / file), load_file(tmp_path / "whole" / file)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert tensor.equal(ours[name]), name
    evaluations = [(tmp_path / name / "evaluations.jsonl").read_text() for name in ("cut", "whole")]
    assert evaluations[0] == evaluations[1]
    left = [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert sorted(left) == ["step-00000009", "step-00000012"]
