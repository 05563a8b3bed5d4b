"""One size at several batch sizes, against transformers' `generate`."""

from collections.abc import Sequence
from typing import Any

from anysize.bench.bandwidth import read_bytes_per_s, step_bytes
from anysize.bench.comparison import measure, speeds, unlike
from anysize.bench.decoding import Work, by_engine, by_transformers, model_for, prompts
from anysize.family.family import Family, Size


def bench_single(
    family: Family, size: Size, *, batches: Sequence[int], prompt_tokens: int, answer_tokens: int, rounds: int
) -> dict[str, Any]:
    """Answer batches of requests with the engine and with transformers, in turn in every round.

    Args:
        family: of the size.
        size: that answers.
        batches: how many requests at once; each is measured on its own.
        prompt_tokens: of each prompt.
        answer_tokens: of each answer.
        rounds: counted ones, after one that is not.

    Returns:
        For each batch size tokens a second of the whole and of decoding alone (medians of the rounds), their ratios,
        the limit that memory bandwidth sets, and how many answers differ.
    """
    model = model_for(family, requests=max(batches), tokens=prompt_tokens + answer_tokens)
    readable = read_bytes_per_s(next(family.bank.teacher.parameters()).device)
    report: dict[str, Any] = {
        "benchmark": "single",
        "size": size.id,
        "layers": size.layers,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "rounds": rounds,
        "memory_read_gb_per_s": readable / 1e9,
    }
    for batch in batches:
        work = [Work(size.variant, ids) for ids in prompts(family, batch, prompt_tokens)]
        engine, transformers = f"batch_{batch}_engine", f"batch_{batch}_transformers"
        measured = measure(
            {
                engine: lambda work=work: by_engine(model, work, answer_tokens),
                transformers: lambda work=work: by_transformers(family, work, answer_tokens),
            },
            rounds,
        )
        stored = prompt_tokens + answer_tokens / 2
        limit = batch * readable / step_bytes(family, [size.variant] * batch, stored)
        report |= speeds(measured)
        report[f"batch_{batch}_decode_limit_tokens_per_s"] = limit
        report[f"batch_{batch}_answers_unlike_transformers"] = unlike(measured[engine][-1], measured[transformers][-1])
        for part in ("", "_decode"):
            ours, theirs = (report[f"{way}{part}_tokens_per_s"] for way in (engine, transformers))
            report[f"ratio_batch_{batch}{part}_over_transformers"] = ours / theirs
        report[f"ratio_batch_{batch}_decode_over_limit"] = report[f"{engine}_decode_tokens_per_s"] / limit
    return report
