"""llama.cpp over a GGUF file, through llama-cpp-python. Imports nothing of anysize."""

import time
from collections.abc import Callable
from typing import Any


def load(
    *, gguf: str, tokens: int, threads: int
) -> Callable[[list[list[int]], int], tuple[list[list[int]], float, float]]:
    """Load a file.

    Args:
        gguf: its path.
        tokens: the most in a request, prompt and answer.
        threads: for the CPU.

    Returns:
        What answers prompts greedily, one after another, with the seconds of the whole and of what comes after the
        prompts.
    """
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

    model: Any = Llama(model_path=gguf, n_ctx=tokens, n_threads=threads, n_threads_batch=threads, verbose=False)

    def answer(prompts: list[list[int]], answer_tokens: int) -> tuple[list[list[int]], float, float]:
        answers: list[list[int]] = []
        total_s = decode_s = 0.0
        for prompt in prompts:
            model.reset()
            started_s = time.perf_counter()
            picked = model.generate(prompt, temp=0.0, repeat_penalty=1.0)
            ids = [next(picked)]
            first_s = time.perf_counter()
            ids += [next(picked) for _ in range(answer_tokens - 1)]
            done_s = time.perf_counter()
            total_s += done_s - started_s
            decode_s += done_s - first_s
            answers.append(ids)
        return answers, total_s, decode_s

    return answer
