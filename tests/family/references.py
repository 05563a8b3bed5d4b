"""Models of every size put together by hand, as slowly and plainly as possible."""

import copy
import json
from itertools import product

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from anysize.family.bank import Bank
from anysize.family.variant import Variant

_PARTS = {
    "llama": ("model", "layers", ("embed_tokens",), "norm", "self_attn"),
    "qwen2": ("model", "layers", ("embed_tokens",), "norm", "self_attn"),
    "qwen3": ("model", "layers", ("embed_tokens",), "norm", "self_attn"),
    "gpt_neox": ("gpt_neox", "layers", ("embed_in",), "final_layer_norm", "attention"),
    "gpt2": ("transformer", "h", ("wte", "wpe"), "ln_f", "attn"),
}


def all_variants(positions: int) -> list[Variant]:
    return [Variant(choice) for choice in product((False, True), repeat=positions)]


def some_tokens(rows: int = 2, length: int = 9, seed: int = 0) -> Tensor:
    return torch.randint(3, 259, (rows, length), generator=torch.Generator().manual_seed(seed))


def reference_model(bank: Bank, variant: Variant) -> PreTrainedModel:
    """A deep copy of the teacher with deep copies of the student's parts put in where the paper says."""
    backbone_name, layers_name, embedding_names, norm_name, attention_name = _PARTS[bank.teacher.config.model_type]
    model = copy.deepcopy(bank.teacher)
    student = copy.deepcopy(bank.student)
    parts = {True: dict(getattr(model, backbone_name).named_children())}
    parts[False] = dict(getattr(student, backbone_name).named_children())
    heads = {True: model.lm_head, False: student.lm_head}

    layers: list[nn.Module] = []
    kinds: list[str] = []
    starts = [*bank.blocks.kept, bank.blocks.teacher_layers]
    for position, patched in enumerate(variant.choice):
        chosen = range(starts[position], starts[position + 1]) if patched else [position]
        layers += [parts[patched][layers_name][layer] for layer in chosen]
        config = (bank.teacher if patched else bank.student).config
        kinds += [config.layer_types[layer] for layer in chosen] if hasattr(config, "layer_types") else []
    for slot, layer in enumerate(layers):
        getattr(layer, attention_name).layer_idx = slot

    first, last = variant.choice[0], variant.choice[-1]
    backbone = getattr(model, backbone_name)
    setattr(backbone, layers_name, nn.ModuleList(layers))
    for name in embedding_names:
        setattr(backbone, name, parts[first][name])
    setattr(backbone, norm_name, parts[last][norm_name])
    model.lm_head = heads[last]
    model.config.num_hidden_layers = len(layers)
    if kinds:
        model.config.layer_types = kinds
    return model.eval()


def snapshot(bank: Bank) -> str:
    """Everything about a bank's modules that running or assembling could change, and a sum of its weights."""
    seen: list[object] = []
    for model in (bank.teacher, bank.student):
        seen.append(json.dumps(model.config.to_dict(), sort_keys=True, default=str))
        seen.append(str(model.generation_config))
        for name, module in model.named_modules():
            hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("hooks")}
            own = {key: id(value) for key, value in (module._parameters | module._buffers).items()}
            children = {key: id(value) for key, value in module._modules.items()}
            plain = {
                key: value
                for key, value in vars(module).items()
                if isinstance(value, int | float | str | bool | None) and not key.startswith("_is_hf")
            }
            seen.append((name, hooks, own, children, plain, id(vars(module).get("config"))))
        seen += [(name, tensor.sum().item(), tensor.requires_grad) for name, tensor in model.named_parameters()]
    return repr(seen)
