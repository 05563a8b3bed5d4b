"""Attention of packed rows over paged keys and values, in the place of transformers' own.

A layer is called once with the tokens of many rows, packed into one. transformers' layer modules look up what computes
attention by the name in their config; under the name here they find `paged_attention`. What it needs to know of the
rows comes with the call, as the keyword `kv`.

Rows attend where their keys and values lie, each by a call of its own. Where there are no kernels, a call costs more
than a short row's attention, so rows of one token that have stored little attend in one call, to copies. Copies hold no
slot that its own row did not write. Measured on SmolLM2-135M shapes (9 heads, 3 of keys, width 64, float32, two cores),
microseconds a layer:

| rows | tokens stored | a call a row, in place | one call, to copies |
|---|---|---|---|
| 4 | 48 | 94 | 51 |
| 4 | 256 | 136 | 139 |
| 4 | 1024 | 463 | 729 |
| 16 | 48 | 358 | 109 |
| 16 | 96 | 450 | 243 |
| 16 | 256 | 647 | 626 |
| 16 | 1024 | 1951 | 1914 |
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from anysize.engine.packing import Masks, PackedKV, Together
from anysize.engine.pages import PagePool

NAME = "anysize_paged"


def paged_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None = None,
    *,
    scaling: float,
    kv: PackedKV,
    sliding_window: int | None = None,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Store keys and values of all rows, then let each row attend to its own (signature of transformers).

    Args:
        _module: the attention module that asks.
        query: [1, H, T, D], of T packed tokens.
        key: [1, G, T, D], where G divides H.
        value: [1, G, T, D].
        _attention_mask: none is given; which tokens a row sees follows from `kv`.
        scaling: of the scores.
        kv: the rows.
        sliding_window: tokens that a token sees, itself included; all before it where None.

    Returns:
        The mix of values [1, T, H, D], and None.
    """
    kv.pool.write(kv.slots_T, key[0].transpose(0, 1), value[0].transpose(0, 1))
    query_THD = query[0].transpose(0, 1)
    if kv.kernels is not None and len(kv.single_R4):
        out_THD = kv.kernels.attend(
            _within(kv.single_R4, sliding_window),
            query_THD.contiguous(),
            kv.pool.keys_SGD,
            kv.pool.values_SGD,
            kv.pool.page_tokens,
            scaling,
        )
    else:
        out_THD = torch.empty_like(query_THD)
    if kv.together is not None:
        query_RHD = query_THD.index_select(0, kv.together.tokens_R)
        out_RHD = _one_token_each(query_RHD, kv.together, kv.pool, sliding_window, scaling)
        out_THD.index_copy_(0, kv.together.tokens_R, out_RHD)
    for sequence, place, here in kv.alone:
        tokens = here.stop - here.start
        stop = sequence.length + tokens
        first = 0 if sliding_window is None else max(0, sequence.length + 1 - sliding_window)
        keys_1GLD, values_1GLD = sequence.read(place, first, stop)
        if tokens == 1:
            out_THD[here] = _one_token(query_THD[here], keys_1GLD, values_1GLD, scaling)
        else:
            mask_NL = _mask(kv.masks, tokens, stop - first, sliding_window, query.device)
            out_THD[here] = _many_tokens(query_THD[here], keys_1GLD, values_1GLD, mask_NL, scaling)
    return out_THD[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, paged_attention)


def _within(single_R4: Tensor, window: int | None) -> Tensor:
    """The rows with the first token that they see under a sliding window."""
    if window is None:
        return single_R4
    rows_R4 = single_R4.clone()
    rows_R4[:, 2] = (rows_R4[:, 3] - window).clamp_(min=0)
    return rows_R4


def _one_token_each(
    query_RHD: Tensor, together: Together, pool: PagePool, window: int | None, scaling: float
) -> Tensor:
    rows, heads, width = query_RHD.shape
    slots_RL = together.slots_RL
    sees_RL = together.own_RL
    if window is not None:
        place_L = torch.arange(slots_RL.shape[1], device=slots_RL.device)
        sees_RL = sees_RL & (place_L >= sees_RL.sum(1, keepdim=True) - window)
    keys_RGLD, values_RGLD = (
        part_SGD.index_select(0, slots_RL.flatten()).view(*slots_RL.shape, -1, width).transpose(1, 2)
        for part_SGD in (pool.keys_SGD, pool.values_SGD)
    )
    query_RGQD = query_RHD.view(rows, keys_RGLD.shape[1], -1, width)
    mask_R11L = sees_RL[:, None, None]
    out_RGQD = F.scaled_dot_product_attention(query_RGQD, keys_RGLD, values_RGLD, attn_mask=mask_R11L, scale=scaling)
    return out_RGQD.reshape(rows, heads, width)


def _one_token(query_1HD: Tensor, keys_1GLD: Tensor, values_1GLD: Tensor, scaling: float) -> Tensor:
    # Query heads that share keys stand as tokens of one head, so that those keys are read once.
    _, heads, width = query_1HD.shape
    query_1GRD = query_1HD.view(1, keys_1GLD.shape[1], -1, width)
    out_1GRD = F.scaled_dot_product_attention(query_1GRD, keys_1GLD, values_1GLD, scale=scaling)
    return out_1GRD.view(1, heads, width)


def _many_tokens(query_NHD: Tensor, keys_1GLD: Tensor, values_1GLD: Tensor, mask_NL: Tensor, scaling: float) -> Tensor:
    out_1HND = F.scaled_dot_product_attention(
        query_NHD.transpose(0, 1)[None],
        keys_1GLD,
        values_1GLD,
        attn_mask=mask_NL,
        scale=scaling,
        enable_gqa=keys_1GLD.shape[1] != query_NHD.shape[1],
    )
    return out_1HND[0].transpose(0, 1)


def _mask(masks: Masks, tokens: int, seen: int, window: int | None, device: torch.device) -> Tensor:
    """Which of the `seen` last tokens each of the `tokens` last of them attends to, True where it does."""
    mask_NL = masks.get((tokens, seen, window))
    if mask_NL is None:
        everything = torch.ones(tokens, seen, dtype=torch.bool, device=device)
        mask_NL = everything.tril(seen - tokens)
        if window is not None:
            mask_NL &= everything.triu(seen - tokens - window + 1)
        masks[tokens, seen, window] = mask_NL
    return mask_NL
