"""Where each supported architecture keeps its parts. The layers themselves are transformers' own modules.

To support another architecture, add one `Architecture` to `ARCHITECTURES`; `tests/family/test_assembly.py` runs all of
them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

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
        head: attribute of the causal LM that holds the LM head.
        stored_head: what checkpoint files call the LM head.
    """

    model_type: str
    backbone: str
    embeddings: tuple[str, ...]
    layers: str
    norm: str
    attention: str
    head: str = "lm_head"
    stored_head: str = "lm_head"

    def stored_name(self, name: str) -> str:
        """What a checkpoint file calls a tensor of the model."""
        return re.sub(rf"^{self.head}\.", f"{self.stored_head}.", name)

    def names_by_stored(self, stored: Iterable[str]) -> dict[str, str]:
        """What the model calls the tensors of a checkpoint, by what the files call them.

        Files of `openai-community/gpt2` leave out the backbone's name; they were saved without a head. Buffers that
        older releases saved belong to no tensor of the model and are left out.
        """
        names = {
            name: re.sub(rf"^{self.stored_head}\.", f"{self.head}.", name) for name in stored if not leftover(name)
        }
        if any(name.startswith(f"{self.backbone}.") for name in names.values()):
            return names
        return {
            key: name if name.startswith(f"{self.head}.") else f"{self.backbone}.{name}" for key, name in names.items()
        }

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


_LEFTOVER = re.compile(r"(^|\.)((attn|attention)\.(masked_)?bias|rotary_emb\.inv_freq)$")

_GATED = (LlamaMLP, Qwen2MLP, Qwen3MLP)

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
            stored_head="embed_out",
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


def is_silu_gated(module: nn.Module) -> bool:
    """Whether a module is an MLP that computes down_proj(silu(gate_proj(x)) up_proj(x))."""
    return isinstance(module, _GATED) and module.config.hidden_act in ("silu", "swish")


def leftover(stored: str) -> bool:
    """Whether a tensor is a buffer (mask, rotary frequencies) that older releases of transformers saved."""
    return _LEFTOVER.search(stored) is not None


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
