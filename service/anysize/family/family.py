"""A family: teacher, student, their block map and the ladder of sizes that is served."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch
from transformers import PreTrainedModel

from anysize.errors import VariantError
from anysize.family.architectures import architecture_of
from anysize.family.artifact import read_family
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.fetch import BUILTIN
from anysize.family.footprint import Footprint, footprint_of
from anysize.family.int8 import Quantization, quantize
from anysize.family.manifest import Manifest
from anysize.family.order import PatchOrder, nested_ladder
from anysize.family.pretrained import Tokenizer, load_model, load_tokenizer
from anysize.family.student import load_published_student
from anysize.family.variant import Variant

_MAX_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Size:
    """A variant with what it costs.

    Attributes:
        variant: which positions are patched.
        footprint: its parameters and bytes.
        layers: its depth.
        fraction: its inference parameters over the teacher's.
    """

    variant: Variant
    footprint: Footprint
    layers: int
    fraction: float

    @property
    def id(self) -> str:
        """The variant's id."""
        return self.variant.id


@dataclass(frozen=True, slots=True)
class Quality:
    """How good a size was found to be, with weights of the kind that are in memory.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of a token.
        kl: mean KL(teacher || size) of a token, in nats, where it was measured.
        dataset: name of the text.
        dataset_sha256: of its bytes.
    """

    perplexity: float
    kl: float | None
    dataset: str
    dataset_sha256: str


class Family:
    """What is served. Safe to use from several threads: nothing in it changes after it is made.

    Args:
        name: of the family.
        bank: the weights.
        tokenizer: the teacher's.
        patch_order: gives the ladder where none is named.
        ladder: ids of the served variants.
        manifest: of the folder the family came from, if it did.
        quantization: what the bank's weights were rounded to, if anything.
    """

    def __init__(
        self,
        name: str,
        bank: Bank,
        tokenizer: Tokenizer,
        *,
        patch_order: PatchOrder = "last_to_first",
        ladder: Iterable[str] | None = None,
        manifest: Manifest | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        self.name = name
        self.bank = bank
        self.tokenizer = tokenizer
        self.manifest = manifest
        self._quantization = quantization
        # Bounded, because ids come from requests.
        self.size = lru_cache(maxsize=_MAX_REMEMBERED)(self._size)
        self._teacher_parameters = footprint_of(bank, Variant.teacher(self.positions)).parameters
        if ladder is None:
            variants = nested_ladder(
                patch_order, self.positions, lambda variant: footprint_of(bank, variant).parameters
            )
        else:
            variants = tuple(self.parse(text) for text in ladder)
        self.ladder = tuple(sorted(map(self.size, variants), key=lambda size: size.footprint.parameters))

    @classmethod
    def load(
        cls, folder: Path, *, dtype: torch.dtype, device: torch.device, quantization: Quantization | None = None
    ) -> "Family":
        """Load a family folder.

        Args:
            folder: of the family.
            dtype: of the weights in memory.
            device: where they go.
            quantization: what the weights of linear maps are rounded to, if anything.

        Raises:
            ArtifactError: it is damaged.
            FetchError: its teacher is not on this machine.
        """
        loaded = read_family(folder, dtype=dtype, device=device)
        if quantization is not None:
            quantize(loaded.bank)
        loaded.bank.settle()
        manifest = loaded.manifest
        return cls(
            manifest.name,
            loaded.bank,
            loaded.tokenizer,
            patch_order=manifest.patch_order,
            ladder=manifest.ladder,
            manifest=manifest,
            quantization=quantization,
        )

    @classmethod
    def builtin(cls, *, dtype: torch.dtype, device: torch.device, quantization: Quantization | None = None) -> "Family":
        """Load the family that ships with the package. See `load`."""
        return cls.load(builtin_folder(), dtype=dtype, device=device, quantization=quantization)

    @classmethod
    def from_pair(
        cls,
        teacher: Path,
        student: Path,
        *,
        dtype: torch.dtype,
        device: torch.device,
        patch_order: PatchOrder,
        quantization: Quantization | None = None,
        name: str | None = None,
    ) -> "Family":
        """Make a family of a teacher checkpoint and a student in the format of the paper's authors.

        Args:
            teacher: a checkpoint folder.
            student: a checkpoint folder with `student_config.json`.
            dtype: of the weights in memory.
            device: where they go.
            patch_order: `last_to_first` for the Qwen and Pythia students, `first_to_last` for the Llama one.
            quantization: what the weights of linear maps are rounded to, if anything.
            name: of the family; the teacher's folder's by default.
        """
        teacher_model = load_model(teacher, dtype=dtype, device=device)
        student_model, blocks = load_published_student(student, teacher_model, dtype=dtype, device=device)
        architecture = architecture_of(teacher_model.config, str(teacher))
        bank = Bank(architecture, blocks, teacher_model, student_model)
        if quantization is not None:
            quantize(bank)
        bank.settle()
        return cls(name or teacher.resolve().name, bank, load_tokenizer(teacher), patch_order=patch_order)

    @property
    def positions(self) -> int:
        """M."""
        return self.bank.blocks.student_layers

    @property
    def teacher(self) -> Size:
        """The largest size."""
        return self.size(Variant.teacher(self.positions))

    @property
    def context_tokens(self) -> int:
        """The longest sequence, prompt and answer together, that the teacher was made for."""
        return self.bank.teacher.config.max_position_embeddings

    def parse(self, text: str) -> Variant:
        """The variant of an id, on the ladder or not.

        Raises:
            VariantError: the id names no variant of this family.
        """
        return Variant.parse(text, self.positions)

    def find(self, text: str) -> Size:
        """The size of an id. See `parse`."""
        try:
            return self.size(self.parse(text))
        except VariantError as error:
            some = ", ".join(size.id for size in self.ladder[:4])
            raise VariantError(f"{error}; among those that are served are {some}") from error

    def quality(self, variant: Variant) -> Quality | None:
        """The measured quality of a variant, where the family's folder says it for weights of this kind."""
        for measured in self.manifest.measurements if self.manifest else ():
            if measured.variant != variant.id:
                continue
            text = (measured.dataset, measured.dataset_sha256)
            if self._quantization is None:
                return Quality(measured.perplexity, measured.kl, *text)
            if measured.perplexity_int8 is not None:
                return Quality(measured.perplexity_int8, None, *text)
        return None

    def assemble(self, variant: Variant) -> PreTrainedModel:
        """The runnable model of a variant, sharing every tensor with the bank."""
        return assemble(self.bank, variant)

    def _size(self, variant: Variant) -> Size:
        footprint = footprint_of(self.bank, variant)
        return Size(
            variant,
            footprint,
            layers=variant.depth(self.bank.blocks),
            fraction=footprint.parameters / self._teacher_parameters,
        )


def builtin_folder() -> Path:
    """The folder of the family that ships with the package."""
    return Path(str(resources.files("anysize") / "families" / BUILTIN))
