"""What HTTP costs: the engine asked directly against the same requests streamed from a service."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from anysize.bench.client import run_client
from anysize.bench.cores import Cores
from anysize.bench.decoding import model_for, passages
from anysize.bench.mixed import spread_sizes
from anysize.bench.service import running_service
from anysize.engine.engine import Engine
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.limits import Limits
from anysize.engine.request import GenerationRequest, Sampling
from anysize.family.family import Family
from anysize.settings import Settings


def bench_http(
    family: Family,
    settings: Settings,
    cores: Cores,
    *,
    requests: int,
    sizes: int,
    answer_tokens: int,
    rounds: int,
    kernels: Kernels | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Answer the same requests, all at once, by the engine in this process and by a service in another.

    The clients are in a third process, on cores of their own where there are any to spare. They keep what they read
    as it comes, and take it apart when the clock has stopped. Where they share the cores of the service, the time that
    they used is shown beside the ratio, and a second ratio is of the time that remains without it.

    Args:
        family: that the settings name.
        settings: of the service, and of the engine beside it.
        cores: of the service and of the clients.
        requests: how many at once.
        sizes: that they ask for.
        answer_tokens: of each answer, unless it ends by itself.
        rounds: counted ones, after one that is not.
        kernels: those that the settings give a service.
        say: told in one line what is being done.

    Returns:
        Tokens a second of both (medians of the rounds), and `ratio_http_over_engine`.

    Raises:
        EngineError: the service or a client failed.
    """
    spread = spread_sizes(family, sizes)
    asked = [(spread[number % len(spread)], text) for number, text in enumerate(passages(requests))]
    bodies = [
        {"prompt": text, "variant": size.id, "max_tokens": answer_tokens, "temperature": 0} for size, text in asked
    ]
    work = [
        GenerationRequest(
            id=f"bench-{number}",
            prompt_ids=family.tokenizer(text, split_special_tokens=True).input_ids,
            size=size,
            sampling=Sampling(max_tokens=answer_tokens),
        )
        for number, (size, text) in enumerate(asked)
    ]
    longest = max(len(one.prompt_ids) for one in work) + answer_tokens
    engine = Engine(family, model_for(family, requests=requests, tokens=longest, kernels=kernels), Limits.of(settings))
    direct: list[float] = []
    streamed: list[float] = []
    without: list[float] = []
    shares: list[float] = []
    texts: list[str] = []
    answers: list[dict[str, Any]] = []
    say(f"starting a service on {len(cores.service)} cores")
    with running_service(settings.family, **_given(settings)) as service:
        engine.start()
        try:
            for round_number in range(rounds + 1):
                texts, tokens, elapsed_s = _directly(engine, work)
                found = run_client("streams", service.url, cores.clients, bodies=bodies)
                answers = found["answers"]
                streamed_tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
                if round_number:
                    direct.append(tokens / elapsed_s)
                    streamed.append(streamed_tokens / found["elapsed_s"])
                    without.append(streamed_tokens / (found["elapsed_s"] - found["cpu_s"] / len(cores.service)))
                    shares.append(found["cpu_s"] / found["elapsed_s"])
        finally:
            engine.stop(within_s=0)
    report: dict[str, Any] = {
        "benchmark": "http",
        "requests": requests,
        "sizes": len(spread),
        "answer_tokens": answer_tokens,
        "rounds": rounds,
        "service_cores": len(cores.service),
        "client_cores": len(cores.clients),
        "engine_tokens_per_s": statistics.median(direct),
        "http_tokens_per_s": statistics.median(streamed),
        "client_cpu_share_of_a_core": statistics.median(shares),
        "answers_unlike_engine": sum(a != b["text"] for a, b in zip(texts, answers, strict=True)),
    }
    report["ratio_http_over_engine"] = report["http_tokens_per_s"] / report["engine_tokens_per_s"]
    if not cores.clients:
        report["ratio_http_without_client_cpu_over_engine"] = statistics.median(without) / report["engine_tokens_per_s"]
    return report


def _directly(engine: Engine, work: Sequence[GenerationRequest]) -> tuple[list[str], int, float]:
    """Texts, tokens and seconds."""
    started_s = time.perf_counter()
    futures = [engine.submit(request) for request in work]
    done = [future.result() for future in futures]
    elapsed_s = time.perf_counter() - started_s
    return [one.text for one in done], sum(one.completion_tokens for one in done), elapsed_s


def _given(settings: Settings) -> dict[str, object]:
    """What was set, but for where the service is."""
    return settings.model_dump(exclude_unset=True, exclude={"family", "host", "port"})
