"""Export: one size as an ordinary Hugging Face checkpoint that any other tool can load."""

import json
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.delta import merge_updates
from anysize.family.files import new_folder
from anysize.family.pretrained import Tokenizer, tied_names
from anysize.family.variant import Variant

_MAX_SHARD = "5GB"


def export_variant(bank: Bank, tokenizer: Tokenizer, variant: Variant, target: Path, *, card: str) -> Path:
    """Write a variant as a checkpoint folder that `AutoModelForCausalLM.from_pretrained` loads.

    Updates of `delta` layers are merged into plain weights. Embedding and head are stored once where they are tied,
    which they are only if both come from the same model (paper, 2.3).

    Args:
        bank: the weights.
        tokenizer: stored beside them.
        variant: the size.
        target: the folder to make; it must not exist.
        card: `README.md` of the folder.

    Raises:
        FileExistsError: the target exists.
    """
    return export_model(assemble(bank, variant), bank.architecture, tokenizer, target, card=card)


def export_model(
    model: PreTrainedModel, architecture: Architecture, tokenizer: Tokenizer, target: Path, *, card: str
) -> Path:
    """Write a model that shares tensors with others as a checkpoint of its own. See `export_variant`."""
    merged = merge_updates(model)
    assert isinstance(merged, PreTrainedModel)
    merged.config.architectures = [type(merged).__name__]
    with new_folder(target) as building:
        _save_weights(merged, architecture, building)
        merged.config.save_pretrained(building)
        if merged.generation_config is not None:
            merged.generation_config.save_pretrained(building)
        tokenizer.save_pretrained(building)
        (building / "README.md").write_text(card, encoding="utf-8")
    return target


@torch.no_grad()
def _save_weights(model: PreTrainedModel, architecture: Architecture, folder: Path) -> None:
    tied = tied_names(model.config)
    # Tensors that a variant shares without being tied are written twice, so that each name has its own bytes.
    tensors = {
        architecture.stored_name(name): tensor.cpu().clone()
        for name, tensor in model.state_dict().items()
        if name not in tied
    }
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=_MAX_SHARD)
    for name, members in split.filename_to_tensors.items():
        save_file({member: tensors[member] for member in members}, folder / name, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
