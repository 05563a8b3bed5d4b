"""Layers as the compiled kernels take them: where the tensors of a view are, which stay as they are."""

import ctypes
from ctypes import c_double, c_int64, c_void_p

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from anysize.engine.mixed import MixedLinear, MixedNorm
from anysize.family.architectures import is_silu_gated
from anysize.family.int8 import Int8Linear

_LAYERS = (LlamaDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)


class _Linear(ctypes.Structure):
    """`Linear` of linear.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "scale", "bias", "down", "up")),
        *((name, c_int64) for name in ("rank", "inputs", "features")),
    )


class _Norm(ctypes.Structure):
    """`Norm` of sweep.h."""

    _fields_ = (("student", c_void_p), ("teacher", c_void_p), ("epsilon", c_double))


class Layer(ctypes.Structure):
    """`Layer` of sweep.h."""

    _fields_ = (
        *((name, _Norm) for name in ("before_attention", "of_query", "of_key", "before_mlp")),
        *((name, _Linear) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        ("scale", c_double),
        ("window", c_int64),
    )


def can_be_compiled(layer: nn.Module) -> bool:
    """Whether the kernels know a decoder layer: one of Llama, Qwen2 or Qwen3 with a SiLU-gated MLP."""
    return isinstance(layer, _LAYERS) and is_silu_gated(layer.mlp)


def compiled(layer: nn.Module) -> Layer:
    """A layer that can be compiled, mixed or not, as the kernels take it. Its tensors must outlive what is returned."""
    attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
    return Layer(
        before_attention=_norm(layer.get_submodule("input_layernorm")),
        of_query=_norm(getattr(attention, "q_norm", None)),
        of_key=_norm(getattr(attention, "k_norm", None)),
        before_mlp=_norm(layer.get_submodule("post_attention_layernorm")),
        **{name: _linear(attention.get_submodule(f"{name[0]}_proj")) for name in ("query", "key", "value", "output")},
        **{name: _linear(mlp.get_submodule(f"{name}_proj")) for name in ("gate", "up", "down")},
        scale=attention.scaling,
        window=getattr(attention, "sliding_window", None) or 0,
    )


def _linear(module: nn.Module) -> _Linear:
    if isinstance(module, MixedLinear):
        linear = _linear(module.base)
        linear.down, linear.up = (_address(part.weight) for part in (module.down, module.up))
        linear.rank = len(module.down.weight)
        return linear
    assert isinstance(module, nn.Linear | Int8Linear)
    features, inputs = module.weight.shape
    scale_O = module.get_buffer("scale") if isinstance(module, Int8Linear) else None
    return _Linear(
        weight=_address(module.weight),
        scale=_address(scale_O),
        bias=_address(module.bias),
        inputs=inputs,
        features=features,
    )


def _norm(module: nn.Module | None) -> _Norm:
    if module is None:
        return _Norm()
    if isinstance(module, MixedNorm):
        student, teacher = _norm(module.student), _norm(module.teacher)
        return _Norm(student.student, teacher.teacher, teacher.epsilon)
    weight_D = module.get_parameter("weight")
    return _Norm(_address(weight_D), _address(weight_D), module.variance_epsilon)


def _address(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()
