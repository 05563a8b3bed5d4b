"""One answer without a server: the same path as `POST /generate`, in this process."""

import uuid

from pydantic import ValidationError

from anysize.api.answer import GenerateOut, TokenTexts
from anysize.api.prompt import PromptEncoder
from anysize.api.schemas import GenerateIn
from anysize.engine.engine import Engine
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.limits import Limits
from anysize.engine.memory import token_bytes
from anysize.engine.model import Model
from anysize.engine.request import GenerationRequest
from anysize.errors import RequestError
from anysize.family.family import Family
from anysize.settings import Settings
from anysize.sizing.budget import find_size

_PAGE_TOKENS = 16


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
    kernels: Kernels | None,
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
    kv_bytes = token_bytes(family.bank) * (len(request.prompt_ids) + max_tokens + _PAGE_TOKENS)
    engine = Engine(
        family, Model(family.bank, kv_bytes=kv_bytes, page_tokens=_PAGE_TOKENS, kernels=kernels), Limits.of(settings)
    )
    engine.start()
    try:
        completion = engine.submit(request).result()
    finally:
        engine.stop(within_s=0)
    return GenerateOut.of(request, completion, TokenTexts(family.tokenizer))
