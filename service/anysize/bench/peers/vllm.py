"""vLLM over one exported size, in this process. Runs where vLLM is installed; imports nothing of anysize."""

import os
import time
from collections.abc import Callable
from typing import Any


def load(
    *, folder: str, dtype: str, requests: int, tokens: int, threads: int, eager: bool
) -> Callable[[list[list[int]], int], tuple[list[list[int]], float, float]]:
    """Load a checkpoint, and compile what vLLM compiles.

    Args:
        folder: of the checkpoint.
        dtype: of weights, keys and values.
        requests: the most at once.
        tokens: the most in one of them, prompt and answer.
        threads: for the CPU.
        eager: whether vLLM does without its compiler.

    Returns:
        What answers prompts greedily, with the seconds of the whole and of what comes after the prompts.
    """
    # No second process, no pinning and no telemetry. Read when vLLM is imported.
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    model: Any = LLM(
        model=folder,
        dtype=dtype,
        max_model_len=tokens,
        max_num_seqs=requests,
        enforce_eager=eager,
        enable_prefix_caching=False,  # or the second round would find its prompts done
    )

    def run(prompts: list[list[int]], answer_tokens: int) -> tuple[list[list[int]], float]:
        greedy = SamplingParams(temperature=0, max_tokens=answer_tokens, ignore_eos=True, detokenize=False)
        given = [{"prompt_token_ids": ids} for ids in prompts]
        started_s = time.perf_counter()
        done = model.generate(given, greedy, use_tqdm=False)
        taken_s = time.perf_counter() - started_s
        return [list(one.outputs[0].token_ids) for one in done], taken_s

    def answer(prompts: list[list[int]], answer_tokens: int) -> tuple[list[list[int]], float, float]:
        # The same up to the first token takes what the prompts take.
        _, prompts_s = run(prompts, 1)
        token_ids, total_s = run(prompts, answer_tokens)
        return token_ids, total_s, max(total_s - prompts_s, 1e-9)

    return answer
