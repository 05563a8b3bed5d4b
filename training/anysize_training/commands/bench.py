"""`anysize-train bench`: this pipeline against a plain Trainer."""

from rich.table import Table

from anysize.console import print_json, terminal
from anysize_training.bench.throughput import CONTENDERS, bench_throughput
from anysize_training.bench.workload import Workload


def bench_training(workload: Workload, *, rounds: int, as_json: bool) -> None:
    """Run the training benchmark and print it.

    Args:
        workload: what both contenders do.
        rounds: how often each runs.
        as_json: print one JSON object instead of a table.
    """
    report = bench_throughput(workload, rounds=rounds)
    if as_json:
        print_json(report)
        return
    title = f"{workload.kind} student of SmolLM2-135M, {workload.rows} rows of {workload.sequence_length} a step"
    table = Table("", "tokens/s", "peak memory", title=title)
    for name in CONTENDERS:
        figures = report[name]
        table.add_row(name, f"{figures['tokens_per_s']:.1f}", f"{figures['peak_bytes'] / 1e9:.2f} GB")
    table.add_row("ratio", f"{report['ratio_tokens_per_s']:.2f}", f"{report['ratio_peak_bytes']:.2f}")
    terminal.print(table)
