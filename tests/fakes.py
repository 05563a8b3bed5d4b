"""Tiny random models, a byte tokenizer and families made of them: everything real but the weights."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Semaphore
from typing import Any, Literal

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from anysize.engine.sequence import Row
from anysize.family.architectures import architecture_of
from anysize.family.artifact import write_family
from anysize.family.assembly import kept_layers, student_config
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.delta import delta_student, own_tensors
from anysize.family.family import Family
from anysize.family.manifest import DeltaStudent, FolderTeacher, FullStudent, Manifest
from anysize.family.pretrained import checkpoint_fingerprint

Kind = Literal["full", "delta"]

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt_neox", "gpt2")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY = 256 + len(SPECIAL)
CONTEXT = 256
RANK = 4
CPU = torch.device("cpu")


def tiny_config(architecture: str, layers: int, *, tied: bool = True) -> PreTrainedConfig:
    """The config of a model of a few thousand parameters."""
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": tied,
        **ids,
    }
    if architecture == "llama":
        return LlamaConfig(**common, num_key_value_heads=2)
    if architecture == "qwen2":
        # The upper half of the layers attend to a short window only, so that kinds of attention differ by layer.
        sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": layers // 2}
        return Qwen2Config(**common, **sliding, num_key_value_heads=2)
    if architecture == "qwen3":
        return Qwen3Config(**common, num_key_value_heads=2, head_dim=8)
    if architecture == "gpt_neox":
        return GPTNeoXConfig(**common)
    assert architecture == "gpt2"
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=layers,
        n_head=4,
        n_positions=CONTEXT,
        tie_word_embeddings=tied,
        **ids,
    )


def tiny_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A random model, in eval mode. Weights are wide enough that logits differ clearly between layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.15)
    return model.eval()


def tiny_bank(
    architecture: str,
    *,
    teacher_layers: int = 6,
    kept: tuple[int, ...] = (0, 2, 5),
    kind: Kind = "full",
    tied: bool = True,
    seed: int = 0,
) -> Bank:
    """Teacher and student with unrelated weights (`full`) or random updates (`delta`)."""
    config = tiny_config(architecture, teacher_layers, tied=tied)
    teacher = tiny_model(config, seed)
    blocks = BlockMap(kept, teacher_layers)
    adapter = architecture_of(config, "tiny")
    if kind == "full":
        student = tiny_model(student_config(copy.deepcopy(config), blocks), seed + 1)
    else:
        student = delta_student(teacher, adapter, blocks, RANK)
        generator = torch.Generator().manual_seed(seed + 1)
        for parameter in own_tensors(student, teacher).values():
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Bank(adapter, blocks, teacher, student)


def untrained_student(bank: Bank) -> PreTrainedModel:
    """The teacher's kept layers alone."""
    return kept_layers(bank.teacher, bank.architecture, bank.blocks)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, three special tokens, and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    raw = RawTokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    end, start, stop = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=start, eos_token=stop, pad_token=end, unk_token=end
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def save_checkpoint_folder(model: PreTrainedModel, folder: Path) -> Path:
    """An ordinary Hugging Face checkpoint with tokenizer."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def write_tiny_family(
    folder: Path,
    *,
    architecture: str = "llama",
    teacher_layers: int = 6,
    kept: tuple[int, ...] = (0, 2, 5),
    kind: Kind = "delta",
    name: str = "tiny",
) -> Bank:
    """A family folder with its teacher inside; returns the bank it was written from."""
    bank = tiny_bank(architecture, teacher_layers=teacher_layers, kept=kept, kind=kind)
    teacher_folder = save_checkpoint_folder(bank.teacher, folder.parent / f"{folder.name}-teacher")
    manifest = Manifest(
        name=name,
        architecture=architecture,
        teacher_layers=teacher_layers,
        kept_layers=kept,
        teacher=FolderTeacher(fingerprint=checkpoint_fingerprint(teacher_folder)),
        student=DeltaStudent(rank=RANK) if kind == "delta" else FullStudent(),
        files={},
    )
    write_family(folder, manifest, bank, teacher_folder=teacher_folder, card="# tiny\n", dtype=torch.float32)
    return bank


class WatchedFamily(Family):
    """A tiny family whose model's steps are counted, and can be held up or made to fail.

    `before_step` is called on the model's thread before each step of a `WatchedModel` over it, with the rows. An
    `endless` family has no token that ends an answer, so that its length is known before.
    """

    def __init__(self, bank: Bank, *, endless: bool = False) -> None:
        super().__init__("tiny", bank, byte_tokenizer())
        if endless:
            self.tokenizer.eos_token = None
            assert bank.teacher.generation_config is not None
            bank.teacher.generation_config.eos_token_id = None
        self.steps = 0
        self.before_step: Callable[[Sequence[Row]], None] = lambda rows: None


def long_winded_family() -> WatchedFamily:
    """A family of four positions, whose answers are as long as asked for."""
    return WatchedFamily(tiny_bank("llama", teacher_layers=8, kept=(0, 2, 3, 6)), endless=True)


class Gate:
    """Holds the model's thread: each call of `__call__` waits for one `let`, or for `open`."""

    def __init__(self) -> None:
        self._permits = Semaphore(0)
        self._arrived = Semaphore(0)
        self._open = Event()

    def __call__(self, rows: object) -> None:
        self._arrived.release()
        while not self._open.is_set() and not self._permits.acquire(timeout=0.01):
            pass

    def wait(self) -> None:
        """Until the model's thread stands at the gate once more than was waited for before."""
        assert self._arrived.acquire(timeout=30), "the model's thread did not come"

    def let(self) -> None:
        """One step through."""
        self._permits.release()

    def open(self) -> None:
        """Every step through, from now on."""
        self._open.set()
