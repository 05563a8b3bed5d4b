"""Running a model's layers one by one, in any order, on a fixed text: what searches over layers are made of."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture


class Replay:
    """The layers of one model, called as its own forward pass on this text called them.

    Besides hidden states a layer wants masks and rotary angles. They depend on the text and on the layer's kind of
    attention alone, so they are recorded once, in a pass whose layers do nothing, and used wherever the layer is put.

    Args:
        architecture: where the model's parts are.
        model: not changed.
        inputs_NL: token ids.
        positions_NL: of each token in its document, which attends to itself alone; None for one document a row.

    Attributes:
        embedded_NLD: what the first layer is given.
    """

    @torch.inference_mode()
    def __init__(
        self,
        architecture: Architecture,
        model: PreTrainedModel,
        inputs_NL: Tensor,
        positions_NL: Tensor | None = None,
    ) -> None:
        self._architecture = architecture
        self._model = model
        self._layers = architecture.layers_of(model)
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        embedded: list[Tensor] = []

        def record(_layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            embedded.append(arguments[0])
            self._calls.append((arguments[1:], keywords))

        handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in self._layers]
        for layer in self._layers:
            layer.forward = _unchanged
        try:
            architecture.backbone_of(model)(input_ids=inputs_NL, position_ids=positions_NL, use_cache=False)
        finally:
            for layer, handle in zip(self._layers, handles, strict=True):
                del layer.forward
                handle.remove()
        self.embedded_NLD = embedded[0]

    @torch.inference_mode()
    def run(self, hidden_NLD: Tensor, layers: Iterable[int]) -> Tensor:
        """Hidden states behind some layers, one after the other."""
        for layer in layers:
            arguments, keywords = self._calls[layer]
            output = self._layers[layer](hidden_NLD, *arguments, **keywords)
            hidden_NLD = output[0] if isinstance(output, tuple) else output
        return hidden_NLD

    @torch.inference_mode()
    def log_probabilities(self, hidden_NLD: Tensor) -> Tensor:
        """What final norm and LM head make of hidden states, `[N, L, V]`."""
        return log_probabilities(self._architecture, self._model, hidden_NLD)


@torch.inference_mode()
def log_probabilities(architecture: Architecture, model: PreTrainedModel, hidden_NLD: Tensor) -> Tensor:
    """What a model's final norm and LM head make of hidden states, `[N, L, V]`."""
    normed = architecture.norm_of(model)(hidden_NLD)
    return F.log_softmax(architecture.head_of(model)(normed).float(), dim=-1)


def mean_kl(teacher_NLV: Tensor, ours_NLV: Tensor) -> float:
    """Mean KL(teacher || ours) of a token in nats, from log probabilities."""
    total = F.kl_div(ours_NLV, teacher_NLV, reduction="sum", log_target=True)
    return total.item() / (teacher_NLV.shape[0] * teacher_NLV.shape[1])


def _unchanged(hidden_NLD: Tensor, *_arguments: Any, **_keywords: Any) -> Tensor:
    return hidden_NLD
