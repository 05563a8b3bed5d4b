"""One request from prompt to last token, on the variant it asked for."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from anysize.engine.detokenizer import Detokenizer
from anysize.engine.request import Completion, FinishReason, GenerationRequest, Timing
from anysize.engine.sampler import Sampler
from anysize.family.family import Family

Beat = Callable[[], None]


@torch.inference_mode()
def generate(
    family: Family, request: GenerationRequest, *, arrived_s: float, prefill_chunk_tokens: int, beat: Beat
) -> Completion:
    """Answer one request.

    Args:
        family: assembles the variant.
        request: looked at for cancellation between any two steps.
        arrived_s: `time.monotonic()` when the request came in.
        prefill_chunk_tokens: prompt tokens run at once.
        beat: called after each step, to show that the model still moves.
    """
    started_s = time.monotonic()
    model = family.assemble(request.size.variant)
    cache = DynamicCache(config=model.config)
    sampler = Sampler(request.sampling, model.device)
    text = Detokenizer(family.tokenizer, request.sampling.stop)
    ends = end_tokens(family)
    answer: list[int] = []
    first_s = last_s = started_s
    reason: FinishReason = "length"
    logits_V = _prefill(model, cache, request, prefill_chunk_tokens, beat)
    while logits_V is not None and not request.cancelled.is_set():
        token = sampler.pick(logits_V)
        picked_s = time.monotonic()
        first_s = first_s if answer else picked_s
        if token in ends:
            reason = "stop"
            break
        answer.append(token)
        last_s = picked_s
        if text.add(token):
            reason = "stop"
            break
        if len(answer) == request.sampling.max_tokens:
            break
        logits_V = _step(model, cache, torch.tensor([[token]], device=model.device))
        beat()
    else:
        reason = "cancelled"
    done_s = time.monotonic()
    return Completion(
        text=text.finish(),
        token_ids=answer,
        finish_reason=reason,
        timing=Timing(
            queue_ms=1e3 * (started_s - arrived_s),
            ttft_ms=1e3 * (first_s - arrived_s),
            tpot_ms=1e3 * (last_s - first_s) / (len(answer) - 1) if len(answer) > 1 else None,
            total_ms=1e3 * (done_s - arrived_s),
        ),
    )


def unanswered(arrived_s: float) -> Completion:
    """What comes of a request that was cancelled before its turn came."""
    waited_ms = 1e3 * (time.monotonic() - arrived_s)
    timing = Timing(queue_ms=waited_ms, ttft_ms=waited_ms, tpot_ms=None, total_ms=waited_ms)
    return Completion(text="", token_ids=[], finish_reason="cancelled", timing=timing)


def end_tokens(family: Family) -> frozenset[int]:
    """The token ids that end an answer."""
    generation = family.bank.teacher.generation_config
    named = generation.eos_token_id if generation is not None else None
    listed = [*(named if isinstance(named, list) else [named]), family.tokenizer.eos_token_id]
    return frozenset(token for token in listed if isinstance(token, int))


def _prefill(
    model: PreTrainedModel, cache: DynamicCache, request: GenerationRequest, chunk_tokens: int, beat: Beat
) -> Tensor | None:
    """Run the prompt; the logits of its last position, or None if the request was cancelled meanwhile."""
    prompt_1L = torch.tensor([request.prompt_ids], device=model.device)
    logits_V = None
    for chunk_1C in prompt_1L.split(chunk_tokens, dim=1):
        if request.cancelled.is_set():
            return None
        logits_V = _step(model, cache, chunk_1C)
        beat()
    return logits_V


def _step(model: PreTrainedModel, cache: DynamicCache, tokens_1C: Tensor) -> Tensor:
    """Logits of the last of some tokens, which are added to the cache."""
    output = model(input_ids=tokens_1C, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.logits[0, -1]
