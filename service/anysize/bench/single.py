"""One size at several batch sizes, against others who serve that size."""

from collections.abc import Callable, Sequence
from typing import Any

from anysize.bench.bandwidth import read_bytes_per_s, step_bytes
from anysize.bench.comparison import measure, speeds, unlike
from anysize.bench.contenders import Contenders, Places
from anysize.bench.decoding import Work, by_engine, model_for, prompts
from anysize.engine.kernels.kernels import Kernels
from anysize.errors import SettingsError
from anysize.family.family import Family, Size

# They answer one request at a time.
_ONE_BY_ONE = ("llamacpp",)


def bench_single(
    family: Family,
    size: Size,
    *,
    batches: Sequence[int],
    prompt_tokens: int,
    answer_tokens: int,
    rounds: int,
    against: Sequence[str],
    places: Places,
    kernels: Kernels | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Answer batches of requests with the engine and with contenders, in turn in every round.

    Args:
        family: of the size.
        size: that answers.
        batches: how many requests at once; each is measured on its own.
        prompt_tokens: of each prompt.
        answer_tokens: of each answer.
        rounds: counted ones, after one that is not.
        against: contenders. llama.cpp has the teacher alone, quantized, and answers batches of 1.
        places: where they find what they need.
        kernels: compiled ones for the engine, where it is to have them.
        say: told in one line what is being done.

    Returns:
        For each batch size tokens a second of the whole and of decoding alone (medians of the rounds), their ratios,
        the limit that memory bandwidth sets, and how many answers differ.

    Raises:
        SettingsError: something that a contender needs is missing.
        EngineError: a contender failed.
    """
    if "llamacpp" in against and size.variant != family.teacher.variant:
        raise SettingsError("--against llamacpp: the GGUF file is of the teacher; leave --size at teacher")
    tokens = prompt_tokens + answer_tokens
    model = model_for(family, requests=max(batches), tokens=tokens, kernels=kernels)
    report: dict[str, Any] = {
        "benchmark": "single",
        "size": size.id,
        "layers": size.layers,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "rounds": rounds,
        "compiled": kernels is not None,
    }
    with Contenders(family, model, kernels, places, requests=max(batches), tokens=tokens, say=say) as contenders:
        contenders.prepare(against, [size.variant])
        for batch in batches:
            work = [Work(size.variant, ids) for ids in prompts(family, batch, prompt_tokens)]
            others = [name for name in against if batch == 1 or name not in _ONE_BY_ONE]
            measured = measure(
                {
                    "engine": lambda work=work: by_engine(model, work, answer_tokens),
                    **{name.replace("-", "_"): contenders.way(name, work, answer_tokens) for name in others},
                },
                rounds,
            )
            readable = read_bytes_per_s(next(family.bank.teacher.parameters()).device)
            stored = prompt_tokens + answer_tokens / 2
            limit = batch * readable / step_bytes(family, [size.variant] * batch, stored)
            speed = speeds(measured)
            report |= {f"batch_{batch}_{name}": value for name, value in speed.items()}
            report[f"batch_{batch}_memory_read_gb_per_s"] = readable / 1e9
            report[f"batch_{batch}_decode_limit_tokens_per_s"] = limit
            for other in (name.replace("-", "_") for name in others):
                report[f"batch_{batch}_answers_unlike_{other}"] = unlike(measured["engine"][-1], measured[other][-1])
                for part in ("", "_decode"):
                    ours, theirs = (speed[f"{way}{part}_tokens_per_s"] for way in ("engine", other))
                    report[f"ratio_batch_{batch}{part}_over_{other}"] = ours / theirs
            report[f"ratio_batch_{batch}_decode_over_limit"] = speed["engine_decode_tokens_per_s"] / limit
    return report
