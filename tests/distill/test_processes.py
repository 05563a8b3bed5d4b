"""Two processes on one machine, with Gloo: replicas and FSDP2 shards reach the losses of one process."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from distilling import run_recipe, run_with_poison
from fakes import save_checkpoint_folder, tiny_config, tiny_model
from forked import in_processes
from safetensors.torch import load_file

from anysize.errors import SettingsError
from anysize.family.family import Family
from anysize_training.distill.processes import Processes
from anysize_training.distill.recipe import Run


def write_recipe(folder: Path, kind: str, *, tied: bool) -> Path:
    save_checkpoint_folder(tiny_model(tiny_config("llama", 6, tied=tied), 0), folder / "teacher")
    documents = (f"cat number {number} sat on mat number {number * number}" for number in range(120))
    (folder / "text.txt").write_text("\n\n".join(documents))
    recipe = {
        "name": "tiny",
        "teacher": str(folder / "teacher"),
        "student": {"kind": kind, "rank": 4, "initialise": {"method": "layers", "layers": [0, 2, 4]}},
        "data": {
            "source": str(folder / "text.txt"),
            "sequence_length": 32,
            "held_out": 3,
            "cache": str(folder / "cache"),
        },
        "optimizer": {"learning_rate": 1e-2},
        "run": {
            "steps": 6,
            "batch_size": 4,
            "micro_batch_size": 1,
            "checkpoint_every": 4,
            "evaluate_every": 3,
            "device": "cpu",
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def journal(out: Path, name: str) -> list[dict]:
    lines = [json.loads(line) for line in (out / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines]


@pytest.mark.parametrize(("kind", "tied"), [("full", False), ("delta", True)])
def test_replicas_and_shards_reach_the_losses_of_one_process(kind: str, tied: bool, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, kind, tied=tied)
    assert in_processes(1, run_recipe, recipe, tmp_path / "one") == [0]
    assert in_processes(2, run_recipe, recipe, tmp_path / "replicate", "replicate") == [0, 0]
    assert in_processes(2, run_recipe, recipe, tmp_path / "shard", "shard") == [0, 0]
    for parallel in ("replicate", "shard"):
        out = tmp_path / parallel
        for name in ("log.jsonl", "evaluations.jsonl"):
            expected, found = journal(tmp_path / "one", name), journal(out, name)
            assert len(found) == len(expected)
            for ours, theirs in zip(found, expected, strict=True):
                for key, value in theirs.items():
                    assert ours[key] == pytest.approx(value, rel=2e-5, abs=1e-6), (parallel, name, key)
        ours, theirs = (load_file(folder / "family/student.safetensors") for folder in (out, tmp_path / "one"))
        for tensor_name, tensor in theirs.items():
            torch.testing.assert_close(ours[tensor_name], tensor, rtol=1e-3, atol=1e-4)
        Family.load(out / "family", dtype=torch.float32, device=torch.device("cpu"))


def test_a_sharded_run_is_resumed_bit_by_bit(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "full", tied=True)
    for name in ("whole", "cut"):
        assert in_processes(2, run_recipe, recipe, tmp_path / name, "shard") == [0, 0]
    # As if it had been killed after step 4: what came later is gone.
    for folder in (tmp_path / "cut" / "family", tmp_path / "cut" / "checkpoints" / "step-00000006"):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    assert in_processes(2, partial(run_recipe, resume=True), recipe, tmp_path / "cut", "shard") == [0, 0]
    assert journal(tmp_path / "cut", "log.jsonl") == journal(tmp_path / "whole", "log.jsonl")
    ours, theirs = (load_file(tmp_path / name / "family/student.safetensors") for name in ("cut", "whole"))
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_all_processes_stop_where_one_meets_a_loss_that_is_no_number(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "full", tied=False)
    assert in_processes(2, run_with_poison, recipe, tmp_path / "out") == [0, 0]


def test_torchrun_starts_a_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "delta", tied=True)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "anysize_training"]
    words += ["distill", "--recipe", str(recipe), "--out", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(journal(tmp_path / "out", "log.jsonl")) == 6
    assert done.stderr.count("wrote ") == 1


def test_one_process_by_itself_has_all_rows() -> None:
    processes = Processes(Run(batch_size=4, micro_batch_size=2), torch.device("cpu"))
    assert (processes.count, processes.rank, processes.is_main, processes.is_sharded) == (1, 0, True, False)
    assert processes.share(torch.arange(4)).tolist() == [0, 1, 2, 3]
    assert [processes.agree(wish) for wish in (True, False)] == [True, False]


def test_a_batch_that_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Three:
        num_processes, process_index, is_main_process = 3, 1, False
        device = torch.device("cpu")

    monkeypatch.setattr("anysize_training.distill.processes.PartialState", lambda **_: Three)
    with pytest.raises(SettingsError, match=r"batch_size 8 .* micro-batches of 2 rows for 3 processes"):
        Processes(Run(batch_size=8, micro_batch_size=2), torch.device("cpu"))
