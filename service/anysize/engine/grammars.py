"""Compiling grammars: JSON of any shape, or of a schema's, and calls of functions."""

import json
from collections.abc import Mapping
from threading import Lock
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.hf import from_tokenizer

from anysize.engine.answer import end_tokens
from anysize.engine.grammar import Grammar
from anysize.errors import RequestError
from anysize.family.family import Family

JSON_OBJECT: Mapping[str, Any] = {"type": "object"}

_MAX_SCHEMA_CHARS = 65_536
# The compiler is recursive, and a thread's stack is not endless.
_MAX_SCHEMA_DEPTH = 64
_MAX_MESSAGE_CHARS = 500
# One way to write each value, as Python's `json` does: where white space is free, small models write nothing else.
_STYLE: Any = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
# Lower than the defaults where those allow a request hundreds of megabytes. No schema is shown in a log.
_LIMITS = LLParserLimits(max_lexer_states=20_000, verbose_errors=False)
_IS_SILENT = 0


class Grammars:
    """Compiles grammars for one family. Safe to use from several threads, of which one compiles at a time.

    Args:
        family: whose tokens they are made of. Its tokenizer is read at the first grammar, which takes a second.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._lock = Lock()
        self._tokenizer: LLTokenizer | None = None

    def of_schema(self, schema: Mapping[str, Any], field: str) -> Grammar:
        """The grammar of a JSON schema.

        Args:
            schema: draft 2020-12, as far as llguidance knows it.
            field: of the request that it came in, for messages.

        Raises:
            RequestError: it is no schema, too large, cannot be satisfied, or says what no grammar can.
        """
        _check(schema, field)
        return self._compiled(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_STYLE), field)

    def of_calls(
        self, schemas: Mapping[str, Mapping[str, Any]], field: str, *, around: tuple[str, str], is_single: bool
    ) -> Grammar:
        """The grammar of calls of functions, at least one, each a JSON object of `name` and `arguments`.

        Args:
            schemas: of the arguments, by the functions' names.
            field: of the request that they came in, for messages.
            around: what begins a call and what ends it; new lines stand inside of both.
            is_single: whether there is exactly one call.

        Raises:
            RequestError: as `of_schema`, for all schemas together.
        """
        _check(schemas, field)
        begin, end = around
        rules = ["start: call" if is_single else r'start: call ("\n" call)*']
        rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(schemas))))
        for number, (name, schema) in enumerate(schemas.items()):
            head, tail = f'{begin}\n{{"name": {json.dumps(name)}, "arguments": ', f"}}\n{end}"
            rules.append(f"call_{number}: {json.dumps(head)} arguments_{number} {json.dumps(tail)}")
            rules.append(f"arguments_{number}: %json {json.dumps({**schema, 'x-guidance': _STYLE})}")
        return self._compiled(LLMatcher.grammar_from_lark("\n".join(rules)), field)

    def _compiled(self, grammar: str, field: str) -> Grammar:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._read_tokenizer(field)
            matcher = LLMatcher(self._tokenizer, grammar, log_level=_IS_SILENT, limits=_LIMITS)
        if matcher.is_error():
            raise RequestError(f"no grammar for this JSON schema: {matcher.get_error()[:_MAX_MESSAGE_CHARS]}", field)
        return Grammar(matcher, field)

    def _read_tokenizer(self, field: str) -> LLTokenizer:
        tokenizer: Any = self._family.tokenizer
        if not tokenizer.is_fast:
            raise RequestError(f"the tokenizer of {self._family.name} is none that grammars can be made for", field)
        return from_tokenizer(
            tokenizer,
            n_vocab=max(self._family.bank.teacher.config.vocab_size, len(tokenizer)),
            eos_token=sorted(end_tokens(self._family)) or None,
        )


def _check(schema: Mapping[str, Any], field: str) -> None:
    if _depth(schema) > _MAX_SCHEMA_DEPTH:
        raise RequestError(f"the JSON schema is nested more than {_MAX_SCHEMA_DEPTH} deep", field)
    chars = len(json.dumps(schema))
    if chars > _MAX_SCHEMA_CHARS:
        raise RequestError(
            f"the JSON schema has {chars} characters, more than the {_MAX_SCHEMA_CHARS} that may be", field
        )


def _depth(value: Any) -> int:
    """How deep a JSON value is nested. Not recursive: a body may be nested deeper than Python's stack."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth
