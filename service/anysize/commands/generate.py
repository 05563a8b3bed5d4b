"""One answer without a server: the same path as `POST /generate`, in this process."""

import time
import uuid

from pydantic import ValidationError

from anysize.api.prompt import PromptEncoder
from anysize.api.schemas import GenerateIn, GenerateOut
from anysize.engine.generation import generate
from anysize.engine.request import GenerationRequest
from anysize.errors import RequestError
from anysize.family.family import Family
from anysize.settings import Settings
from anysize.sizing.budget import find_size


def generate_once(
    family: Family,
    settings: Settings,
    prompt: str,
    size: str,
    *,
    chat: bool,
    max_tokens: int,
    temperature: float,
    seed: int | None,
) -> GenerateOut:
    """Answer one prompt.

    Raises:
        RequestError: an option is out of range, or the prompt does not fit the family's limits.
    """
    text = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    numbers = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    try:
        body = GenerateIn.model_validate({**text, **numbers})
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    encoder = PromptEncoder(family, max_chars=settings.max_prompt_chars, max_tokens=settings.max_tokens)
    request = GenerationRequest(
        id=f"gen-{uuid.uuid4().hex}",
        prompt_ids=encoder.encode(body),
        size=find_size(family, size),
        sampling=body.sampling(),
    )
    completion = generate(
        family,
        request,
        arrived_s=time.monotonic(),
        prefill_chunk_tokens=settings.prefill_chunk_tokens,
        beat=lambda: None,
    )
    return GenerateOut.of(request, completion)
