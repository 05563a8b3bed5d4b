"""One size of a family served by the engine's own model in a process of its own, as if there were no mixed batch."""

from collections.abc import Callable
from pathlib import Path

import torch

from anysize.bench.decoding import Work, by_engine, model_for
from anysize.engine.kernels.kernels import Kernels
from anysize.family.family import Family


def load(
    *,
    family: str | None,
    variant: str,
    dtype: str,
    device: str,
    requests: int,
    tokens: int,
    threads: int,
    compiled: bool,
) -> Callable[[list[list[int]], int], tuple[list[list[int]], float, float]]:
    """Load a family and keep to one of its sizes.

    Args:
        family: its folder; the built-in one where None.
        variant: the id of the size.
        dtype: of the weights.
        device: where they go.
        requests: the most at once.
        tokens: the most in one of them, prompt and answer.
        threads: for the CPU.
        compiled: whether compiled kernels are used.

    Returns:
        What answers prompts greedily in one batch, with the seconds of the whole and of what comes after the prompts.
    """
    torch.set_num_threads(threads)
    kind = {"dtype": getattr(torch, dtype), "device": torch.device(device)}
    loaded = Family.load(Path(family), **kind) if family else Family.builtin(**kind)
    size = loaded.find(variant)
    kernels = Kernels.compiled(lambda _: None) if compiled else None
    model = model_for(loaded, requests=requests, tokens=tokens, kernels=kernels)

    def answer(prompts: list[list[int]], answer_tokens: int) -> tuple[list[list[int]], float, float]:
        answered = by_engine(model, [Work(size.variant, ids) for ids in prompts], answer_tokens)
        return answered.token_ids, answered.total_s, answered.decode_s

    return answer
