"""Image classifiers: a ViT, and a student of fewer layers that was distilled from it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from anysize.family.blocks import BlockMap
from anysize.family.variant import Owner, Variant
from anysize_training.study.offtheshelf.images import LabelledImages


@dataclass(frozen=True, slots=True)
class ImageQuality:
    """What a size is worth on labelled images.

    Attributes:
        cross_entropy: mean of an image, in nats.
        accuracy: share of the images whose likeliest class is theirs.
        agreement: share of the images whose likeliest class is the teacher's.
    """

    cross_entropy: float
    accuracy: float
    agreement: float


@dataclass(frozen=True, slots=True, eq=False)
class VisionPair:
    """A pair of image classifiers.

    Attributes:
        name: of student and teacher.
        teacher: N layers.
        student: M layers.
        blocks: which of the teacher's each of the student's stands for.
        processor: the teacher's.
        fingerprint: of both.
    """

    name: str
    teacher: ViTForImageClassification
    student: ViTForImageClassification
    blocks: BlockMap
    processor: ViTImageProcessorPil
    fingerprint: dict[str, str]

    @property
    def classes(self) -> dict[str, int]:
        """The number of each label."""
        return {label: int(number) for number, label in (self.teacher.config.id2label or {}).items()}

    def assemble(self, variant: Variant) -> ViTForImageClassification:
        """The model of a variant; embedding and head are those of the outer layers' owners."""
        models = {Owner.TEACHER: self.teacher, Owner.STUDENT: self.student}
        layers = [models[ref.owner].vit.layers[ref.layer] for ref in variant.stack(self.blocks)]
        return _stacked(models[variant.embedding_owner], layers, models[variant.head_owner])

    def parameters(self, variant: Variant) -> int:
        """Parameters of a variant."""
        return sum(tensor.numel() for tensor in self.assemble(variant).parameters())

    def pruned(self) -> "VisionPair":
        """The teacher with its own kept layers in place of the student: naive layer pruning."""
        layers = [self.teacher.vit.layers[kept] for kept in self.blocks.kept]
        return replace(self, student=_stacked(self.teacher, layers, self.teacher))

    def logits(self, variant: Variant, images: LabelledImages, *, batch: int) -> Tensor:
        """What a variant says of each class of each image, (N, classes)."""
        model = self.assemble(variant)
        device = next(model.parameters()).device
        with torch.inference_mode():
            return torch.cat([model(pixels.to(device)).logits for pixels in images.pixels_NCHW.split(batch)])


def image_quality(logits_NC: Tensor, teacher_NC: Tensor, labels_N: Tensor) -> ImageQuality:
    """What logits are worth, beside the teacher's."""
    labels_N = labels_N.to(logits_NC.device)
    likeliest_N = logits_NC.argmax(-1)
    return ImageQuality(
        cross_entropy=F.cross_entropy(logits_NC.double(), labels_N).item(),
        accuracy=(likeliest_N == labels_N).double().mean().item(),
        agreement=(likeliest_N == teacher_NC.argmax(-1)).double().mean().item(),
    )


def _stacked(
    first: ViTForImageClassification, layers: Sequence[nn.Module], last: ViTForImageClassification
) -> ViTForImageClassification:
    """The embedding of one model, some layers, and the norm and head of another; tensors are shared, not copied."""
    config = copy.copy(last.config)
    config.num_hidden_layers = len(layers)
    with torch.device("meta"):
        model = ViTForImageClassification(config)
    model.vit.embeddings = first.vit.embeddings
    model.vit.layers = nn.ModuleList(layers)
    model.vit.layernorm = last.vit.layernorm
    model.classifier = last.classifier
    return model.eval()
