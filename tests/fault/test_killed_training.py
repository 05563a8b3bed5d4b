"""A run that is killed again and again ends with the same bits as one that was left in peace."""

import json
import signal
from pathlib import Path
from random import Random

import pytest
from forked import in_processes
from killed import PLACES, distil
from safetensors.torch import load_file


def run(out: Path, cache: Path, steps: int, place=None, count: int = 0) -> int:
    """Run the tiny recipe in a process of its own; its exit code, which is negative for a signal."""
    overrides = [f"data.cache={cache}", "run.device=cpu", f"run.steps={steps}"]
    return in_processes(1, distil, out, overrides, place, count)[0]


def saved_step(out: Path) -> int:
    """The step of the newest whole checkpoint."""
    return max((int(path.name.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*")), default=0)


def series(out: Path) -> list[dict]:
    """The journal without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.fault)])
def test_a_run_that_is_killed_ends_with_the_same_bits(kills: int, tmp_path: Path) -> None:
    steps = 3 * (kills + 3)
    assert run(tmp_path / "whole", tmp_path / "cache", steps) == 0
    random = Random(kills)
    places = ["weights", "moments", *random.choices(PLACES, k=kills - 2)]
    random.shuffle(places)
    resumed_from = []
    for place in places:
        resumed_from.append(saved_step(tmp_path / "cut"))
        # A save comes every third step, behind at most four lines; each session lives to see its first, and dies later.
        count = random.randint(5, 6) if place in ("step", "journal") else 2
        assert run(tmp_path / "cut", tmp_path / "cache", steps, place, count) == -signal.SIGKILL
        assert saved_step(tmp_path / "cut") > resumed_from[-1]
    assert len(set(resumed_from)) == kills
    assert saved_step(tmp_path / "cut") < steps
    assert run(tmp_path / "cut", tmp_path / "cache", steps) == 0
    assert series(tmp_path / "cut") == series(tmp_path / "whole")
    for file in ("family/student.safetensors", f"checkpoints/step-{steps:08d}/weights.safetensors"):
        ours, theirs = load_file(tmp_path / "cut" / file), load_file(tmp_path / "whole" / file)
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert tensor.equal(ours[name]), name
    evaluations = [(tmp_path / name / "evaluations.jsonl").read_text() for name in ("cut", "whole")]
    assert evaluations[0] == evaluations[1]
    left = [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert sorted(left) == [f"step-{steps - 3:08d}", f"step-{steps:08d}"]
