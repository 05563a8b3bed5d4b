"""From a request's text to token ids, within the family's limits."""

from anysize.api.schemas import GenerateIn
from anysize.errors import RequestError
from anysize.family.family import Family


def prompt_ids(body: GenerateIn, family: Family, *, max_chars: int, max_tokens: int) -> list[int]:
    """Tokenise a prompt, or messages through the chat template of the artifact.

    Args:
        body: checked JSON.
        family: whose tokenizer and context length count.
        max_chars: in all texts together.
        max_tokens: the most tokens one request may ask for.

    Raises:
        RequestError: too long, too many tokens asked for, or messages for a family without a chat template.
    """
    if body.max_tokens > max_tokens:
        raise RequestError(f"max_tokens is {body.max_tokens}, more than the {max_tokens} that this service allows")
    texts = [body.prompt] if body.prompt is not None else [message.content for message in body.messages or ()]
    chars = sum(len(text) for text in texts)
    if chars > max_chars:
        raise RequestError(f"the prompt has {chars} characters, more than the {max_chars} that this service allows")
    ids = _encode_messages(body, family) if body.messages is not None else _encode(family, texts[0])
    if not ids:
        raise RequestError("the prompt has no tokens")
    if len(ids) + body.max_tokens > family.context_tokens:
        raise RequestError(
            f"{len(ids)} prompt tokens and max_tokens {body.max_tokens} together exceed the context of "
            f"{family.context_tokens} tokens"
        )
    return ids


def _encode(family: Family, text: str) -> list[int]:
    return family.tokenizer(text, split_special_tokens=True).input_ids


def _encode_messages(body: GenerateIn, family: Family) -> list[int]:
    tokenizer = family.tokenizer
    if tokenizer.chat_template is None:
        raise RequestError(f"family {family.name} has no chat template; send a prompt instead of messages")
    messages = [message.model_dump() for message in body.messages or ()]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        raise RequestError(f"the chat template of {family.name} refuses these messages: {error}") from error
    return tokenizer(text, add_special_tokens=False).input_ids
