"""Where each supported architecture keeps its parts. The layers themselves are transformers' own modules.

To support another architecture, add one `Architecture` to `ARCHITECTURES`; `tests/family/test_assembly.py` runs all of
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from anysize.errors import ArtifactError


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Names of the parts of one Hugging Face causal LM.

    Attributes:
        model_type: `config.model_type`.
        backbone: attribute of the causal LM that holds the transformer.
        embeddings: attributes of the backbone that turn token ids (and positions) into hidden states.
        layers: attribute of the backbone that holds the decoder layers.
        norm: attribute of the backbone that holds the final norm.
        attention: attribute of a decoder layer that carries `layer_idx`, its slot in the KV cache.
    """

    model_type: str
    backbone: str
    embeddings: tuple[str, ...]
    layers: str
    norm: str
    attention: str
    head: str = "lm_head"

    def backbone_of(self, model: PreTrainedModel) -> PreTrainedModel:
        """The transformer without its LM head."""
        return getattr(model, self.backbone)

    def layers_of(self, model: PreTrainedModel) -> Sequence[nn.Module]:
        """The decoder layers, first to last."""
        return getattr(self.backbone_of(model), self.layers)

    def embeddings_of(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """The embedding modules by attribute name."""
        return {name: getattr(self.backbone_of(model), name) for name in self.embeddings}

    def norm_of(self, model: PreTrainedModel) -> nn.Module:
        """The final norm."""
        return getattr(self.backbone_of(model), self.norm)

    def head_of(self, model: PreTrainedModel) -> nn.Module:
        """The LM head."""
        return getattr(model, self.head)


_LLAMA_LIKE = {
    "backbone": "model",
    "embeddings": ("embed_tokens",),
    "layers": "layers",
    "norm": "norm",
    "attention": "self_attn",
}

ARCHITECTURES: dict[str, Architecture] = {
    architecture.model_type: architecture
    for architecture in (
        Architecture(model_type="llama", **_LLAMA_LIKE),
        Architecture(model_type="qwen2", **_LLAMA_LIKE),
        Architecture(model_type="qwen3", **_LLAMA_LIKE),
        Architecture(
            model_type="gpt_neox",
            backbone="gpt_neox",
            embeddings=("embed_in",),
            layers="layers",
            norm="final_layer_norm",
            attention="attention",
        ),
        Architecture(
            model_type="gpt2",
            backbone="transformer",
            embeddings=("wte", "wpe"),
            layers="h",
            norm="ln_f",
            attention="attn",
        ),
    )
}


def architecture_of(config: PreTrainedConfig, where: str) -> Architecture:
    """The architecture of a model by its config.

    Args:
        config: the model's config.
        where: the file or folder the config came from, for the error.

    Raises:
        ArtifactError: the model type is not supported, or the config makes layers depend on their place in the
            network, so that they cannot be moved to another.
    """
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise ArtifactError(where, f"model type {config.model_type!r} is not supported; supported are {supported}")
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise ArtifactError(where, "scale_attn_by_inverse_layer_idx ties a layer to its depth, so no size can move it")
    if getattr(config, "add_cross_attention", False):
        raise ArtifactError(where, "models with cross-attention are not supported")
    return architecture
