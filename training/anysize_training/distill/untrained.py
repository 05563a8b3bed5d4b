"""A small Llama that has learnt nothing, with a tokenizer of its own: the teacher of studies that begin from scratch.

`anysize-train distill` trains it like any student, on cross entropy alone, with all layers kept; its family's student
is then an ordinary checkpoint and may teach others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anysize.errors import SettingsError
from anysize.family.files import new_folder

END = "<|endoftext|>"
_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large it is.

    Attributes:
        layers: decoder layers, N.
        width: of a hidden state, D.
        heads: of attention; keys and values have as many.
        feed_forward: width inside an MLP.
        vocabulary: tokens, the end of a text among them.
        context: the most tokens of a sequence.
    """

    layers: int = 12
    width: int = 256
    heads: int = 4
    feed_forward: int = 688
    vocabulary: int = 4096
    context: int = 512

    def __post_init__(self) -> None:
        """Check that the parts fit each other.

        Raises:
            SettingsError: they do not.
        """
        if self.width % (2 * self.heads):
            raise SettingsError(
                f"--heads {self.heads}: rotary heads are of even width, and {self.width} splits into none"
            )
        if self.vocabulary <= _BYTES + 1:
            raise SettingsError(f"--vocabulary {self.vocabulary}: {_BYTES} bytes and the end of a text come first")


def write_untrained(out: Path, documents: Iterator[str], shape: Shape, *, seed: int) -> int:
    """Write a checkpoint with random weights and byte-level BPE learnt on a text.

    Args:
        out: the folder to make.
        documents: what the tokenizer learns on.
        shape: of the model.
        seed: of the weights.

    Returns:
        Its parameters, with the tied embedding counted once.

    Raises:
        SettingsError: the folder exists, or the text has too few words for the vocabulary.
    """
    if out.exists():
        raise SettingsError(f"{out} exists already; name another folder")
    tokenizer = _learnt_tokenizer(documents, shape)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    with new_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model.num_parameters()


def _learnt_tokenizer(documents: Iterator[str], shape: Shape) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(documents, trainer)
    if raw.get_vocab_size() < shape.vocabulary:
        raise SettingsError(
            f"the text gives {raw.get_vocab_size():,} tokens, not {shape.vocabulary:,}; ask for a smaller --vocabulary"
        )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, model_max_length=shape.context)
