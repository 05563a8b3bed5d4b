"""A contender in a process of its own, seen from the benchmark."""

import json
import select
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from anysize.bench.decoding import Answered
from anysize.errors import EngineError

_WORKER = Path(__file__).with_name("worker.py")
# Some compile while they load.
_LOAD_LIMIT_S = 1800
_ANSWER_LIMIT_S = 900
_TOLD_LINES = 3


class Peer:
    """Starts a process that loads a contender; answers come once `wait_ready` has returned.

    Args:
        python: the interpreter and its options.
        contender: a module beside this one.
        options: for its `load`.
    """

    def __init__(self, python: Sequence[str], contender: str, **options: Any) -> None:
        self._name = contender
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (closed in `__exit__`)
        job = json.dumps({"contender": contender, "options": options})
        self._process = subprocess.Popen(  # noqa: S603
            [*python, str(_WORKER), job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            pipe.close()

    def wait_ready(self) -> None:
        """Wait until it has loaded.

        Raises:
            EngineError: it failed, or took too long.
        """
        self._read(_LOAD_LIMIT_S)

    def ask(self, prompts: Sequence[Sequence[int]], answer_tokens: int) -> None:
        """Let it begin with a batch; `answered` waits for its end."""
        assert self._process.stdin is not None
        line = json.dumps({"prompts": [list(ids) for ids in prompts], "answer_tokens": answer_tokens}) + "\n"
        try:
            self._process.stdin.write(line.encode())
        except OSError as error:
            raise self._failure() from error

    def answered(self) -> Answered:
        """The answers to the batch, by the contender's own clock.

        Raises:
            EngineError: it failed, or took too long.
        """
        reply = self._read(_ANSWER_LIMIT_S)
        token_ids: list[list[int]] = reply["token_ids"]
        decode_tokens = sum(len(ids) - 1 for ids in token_ids)
        return Answered(token_ids, reply["total_s"], reply["decode_s"], decode_tokens)

    def _read(self, limit_s: float) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe is not None
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], limit_s)[0]:
                raise EngineError(f"{self._name} has said nothing for {limit_s} s")
            if not (read := pipe.read(1 << 16)):
                raise self._failure()
            self._unread += read
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)

    def _failure(self) -> EngineError:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return EngineError(f"{self._name} failed: {' / '.join(lines[-_TOLD_LINES:]) or 'it said nothing'}")
