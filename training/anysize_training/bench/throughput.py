"""Tokens per second and peak memory of this pipeline against a plain Trainer subclass, in one run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from statistics import median
from typing import Any

from tqdm import tqdm

from anysize.errors import AnysizeError
from anysize_training.bench.workload import Workload, peak_bytes

CONTENDERS = ("pipeline", "plain")


def bench_throughput(workload: Workload, *, rounds: int) -> dict[str, Any]:
    """Run both contenders in turn, each time in a process of its own.

    Args:
        workload: that both do.
        rounds: how often each runs; figures are medians.

    Returns:
        Figures of both, `ratio_tokens_per_s` and `ratio_peak_bytes` of the pipeline over the plain Trainer.

    Raises:
        AnysizeError: a contender fails, or the two disagree about the loss.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tqdm(total=rounds * len(CONTENDERS), desc="training benchmark", unit="run") as progress:
        for _ in range(rounds):
            for name in CONTENDERS:
                progress.set_postfix_str(name)
                results[name].append(_in_process_of_its_own(name, workload))
                progress.update()
    ours, theirs = (results[name][0]["losses"] for name in CONTENDERS)
    if any(abs(a - b) > 0.02 * abs(b) for a, b in zip(ours, theirs, strict=True)):
        raise AnysizeError(f"the contenders do not compute the same: losses {ours} and {theirs}")
    figures = {
        name: {key: median(run[key] for run in runs) for key in ("tokens_per_s", "peak_bytes")}
        for name, runs in results.items()
    }
    pipeline, plain = (figures[name] for name in CONTENDERS)
    return {
        "benchmark": "training",
        **asdict(workload),
        "rounds": rounds,
        **figures,
        "losses": {name: runs[0]["losses"] for name, runs in results.items()},
        "ratio_tokens_per_s": pipeline["tokens_per_s"] / plain["tokens_per_s"],
        "ratio_peak_bytes": pipeline["peak_bytes"] / plain["peak_bytes"],
    }


def run_contender(name: str, workload: Workload) -> dict[str, Any]:
    """Run one contender in this process."""
    seconds, losses = _contender(name)(workload)
    rate = workload.steps * workload.tokens / seconds
    return {"tokens_per_s": rate, "peak_bytes": peak_bytes(), "losses": losses}


def _contender(name: str) -> Callable[[Workload], tuple[float, list[float]]]:
    if name == "pipeline":
        from anysize_training.bench.pipeline import train_with_pipeline

        return train_with_pipeline
    from anysize_training.bench.plain import train_plainly

    return train_plainly


def _in_process_of_its_own(name: str, workload: Workload) -> dict[str, Any]:
    code = (
        "import json, sys; from anysize_training.bench.throughput import run_contender; "
        "from anysize_training.bench.workload import Workload; "
        "print(json.dumps(run_contender(sys.argv[1], Workload(**json.loads(sys.argv[2])))))"
    )
    command = [sys.executable, "-c", code, name, json.dumps(asdict(workload))]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise AnysizeError(f"the {name} contender failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
