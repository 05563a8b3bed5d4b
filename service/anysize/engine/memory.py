"""How much memory keys and values get where nobody says."""

from pathlib import Path

import psutil
import torch

from anysize.family.bank import Bank

_SHARE = 4
_CGROUP = Path("/sys/fs/cgroup")


def default_kv_bytes(bank: Bank, *, answers: int, context_tokens: int) -> int:
    """A quarter of the memory that is free on the bank's device, or what can be of use at all where that is less.

    Args:
        bank: loaded already, so that what it takes is no longer free.
        answers: that are generated side by side.
        context_tokens: of the longest of them.
    """
    device = next(bank.teacher.parameters()).device
    return min(free_bytes(device) // _SHARE, answers * context_tokens * token_bytes(bank))


def token_bytes(bank: Bank) -> int:
    """Bytes of the keys and values of one token on the largest size."""
    return bank.blocks.teacher_layers * layer_token_bytes(bank)


def layer_token_bytes(bank: Bank) -> int:
    """Bytes of the keys and values of one token at one layer."""
    heads, width = heads_and_width(bank)
    return 2 * heads * width * next(bank.teacher.parameters()).element_size()


def heads_and_width(bank: Bank) -> tuple[int, int]:
    """How many heads keys and values have, and how wide each is."""
    config = bank.teacher.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def free_bytes(device: torch.device, cgroup: Path = _CGROUP) -> int:
    """Memory that may still be taken on a device.

    Args:
        device: the GPU's own memory counts where it is one.
        cgroup: folder of the control group, whose limit counts where it has one, as in a container.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))
