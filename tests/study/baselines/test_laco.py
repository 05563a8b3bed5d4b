"""LaCo, against straightforward loops over copies of models, and on weights made by hand."""

import copy

import pytest
import torch
from fakes import ARCHITECTURES, tiny_config, tiny_model
from stacked import Tensors, is_linear, layer_tensors, logits_of, merged, some_tokens, stacked
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from anysize.family.architectures import architecture_of
from anysize_training.stack import StackLayer, build, plain_stack
from anysize_training.study.baselines.baseline import laco
from anysize_training.study.baselines.laco import LaCo, Merge, Reading, fold, table_4

# The last one keeps every merge.
THRESHOLDS = (0.9, -1)


def gentle_model(architecture: str, layers: int = 6) -> PreTrainedModel:
    """A model whose layers change little, so that some merges are kept; norms differ by layer and by dimension."""
    model = tiny_model(tiny_config(architecture, layers), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() == 1:
                tensor.add_(0.4 * torch.randn(tensor.shape, generator=generator))
            elif ".layers." in name or ".h." in name:
                tensor.mul_(0.6)
    return model


def merged_by_hand(layers: list[Tensors], place: int, count: int, reading: Reading) -> Tensors:
    """Both readings as they are written: Equation 4 from the unchanged layer, the notebooks' in-place loop."""
    if reading == "equation":
        return merged(layers[place : place + count + 1])
    made = copy.deepcopy(layers[place])
    for number in range(1, count + 1):
        for name, tensor in made.items():
            if is_linear(name):
                tensor.add_(layers[place + number][name] - tensor)
    return made


def run_by_hand(
    model: PreTrainedModel, texts: Tensor, folded: int, threshold: float, reading: Reading
) -> list[tuple[int, float, Tensor]]:
    """Depth, similarity and logits after each merge that is kept; every model is run whole, text by text."""
    count = folded if reading == "equation" else folded - 1
    layers = [layer_tensors(model, layer) for layer in range(model.config.num_hidden_layers)]
    kinds = list(range(len(layers)))
    place, kept = len(layers) - 1 - count, []
    while place >= 1:
        fitting = min(count, len(layers) - place - 1)
        tried = [*layers[:place], merged_by_hand(layers, place, fitting, reading), *layers[place + fitting + 1 :]]
        tried_kinds = [*kinds[: place + 1], *kinds[place + fitting + 1 :]]
        candidate = stacked(model, tried, tried_kinds)
        cosines = []
        for text in texts:
            with torch.no_grad():
                ours, theirs = (
                    one(text[None], output_hidden_states=True).hidden_states[-1].flatten() for one in (candidate, model)
                )
            cosines.append(F.cosine_similarity(ours, theirs, dim=0).item())
        similarity = sum(cosines) / len(cosines)
        if similarity > threshold:
            layers, kinds = tried, tried_kinds
            kept.append((len(layers), similarity, logits_of(candidate, texts)))
            place -= 2
        else:
            place -= 1
    return kept


@pytest.mark.parametrize("reading", ["equation", "official"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_runs_are_those_of_a_plain_loop(architecture: str, reading: Reading) -> None:
    model, texts = gentle_model(architecture), some_tokens(3, 12)
    adapter = architecture_of(model.config, "tiny")
    search = LaCo(adapter, model, texts, reading)
    depths = set()
    for threshold in THRESHOLDS:
        found = [*search.run(3, threshold)]
        expected = run_by_hand(model, texts, 3, threshold, reading)
        assert [len(state.stack) for state in found] == [depth for depth, _, _ in expected]
        for state, (_, similarity, logits) in zip(found, expected, strict=True):
            assert state.similarity == pytest.approx(similarity, abs=1e-4)
            ours = logits_of(build(model, adapter, state.stack), texts)
            torch.testing.assert_close(ours, logits, rtol=1e-3, atol=1e-3)
        assert [state.is_last for state in found] == [False] * (len(found) - 1) + [True] * bool(found)
        depths.add(tuple(len(state.stack) for state in found))
    assert len(depths) > 1, "the threshold decides nothing"


def test_equation_four_on_weights_made_by_hand() -> None:
    model = tiny_model(tiny_config("llama", 4), 0)
    with torch.no_grad():
        for layer, value in enumerate((1.0, 2.0, 5.0, 11.0)):
            for tensor in model.model.layers[layer].parameters():
                tensor.fill_(value)
    adapter = architecture_of(model.config, "tiny")
    merged = build(model, adapter, fold(plain_stack(range(4)), 1, 2, "equation"))
    # 2 + (5 - 2) + (11 - 2)
    assert {tensor.unique().item() for tensor in adapter.layers_of(merged)[1].parameters()} == {14.0}
    official = build(model, adapter, fold(plain_stack(range(4)), 1, 2, "official"))
    layer = adapter.layers_of(official)[1]
    values = {name: tensor.unique().item() for name, tensor in layer.named_parameters()}
    assert {value for name, value in values.items() if "norm" in name} == {2.0}
    assert {value for name, value in values.items() if "proj" in name} == {11.0}
    assert len(adapter.layers_of(official)) == 2


def test_equal_layers_merge_into_themselves() -> None:
    model = gentle_model("llama")
    for layer in (4, 5):
        model.model.layers[layer].load_state_dict(model.model.layers[3].state_dict())
    stack = fold(plain_stack(range(6)), 3, 2, "equation")
    by_hand = stacked(model, [layer_tensors(model, layer) for layer in (0, 1, 2, 3)], (0, 1, 2, 3))
    made = build(model, architecture_of(model.config, "tiny"), stack)
    ids = some_tokens()
    torch.testing.assert_close(logits_of(made, ids), logits_of(by_hand, ids), rtol=1e-4, atol=1e-4)


def test_a_merged_layer_is_merged_again() -> None:
    once = fold(plain_stack(range(6)), 3, 2, "equation")
    # Layer 2 and what layers 3 to 5 became: 3 + (4 - 3) + (5 - 3).
    assert fold(once, 2, 1, "equation")[2] == StackLayer(2, ((3, -1), (4, 1), (5, 1)), ((3, -1), (4, 1), (5, 1)))
    once = fold(plain_stack(range(6)), 3, 2, "official")
    assert fold(once, 2, 1, "official")[2] == StackLayer(2, ((5, 1),), ((2, 1),))


def test_the_grid_is_table_four() -> None:
    assert len(table_4()) == 24
    assert {merged for merged, _ in table_4()} == {3, 4, 5, 6}
    assert {threshold for _, threshold in table_4()} == {0.95, 0.85, 0.75, 0.65, 0.55, 0.45}


class Scripted(LaCo):
    """Runs that had what is listed: depth and similarity, by C."""

    def __init__(self, had: dict[int, list[tuple[int, float]]]) -> None:
        self.reading, self.had = "official", had

    def run(self, merged: int, threshold: float, *, lowest: int = 1, interval: int = 2):
        for depth, similarity in self.had[merged]:
            yield Merge(merged, threshold, (), plain_stack(range(depth)), similarity, is_last=False)


def test_a_depth_gets_what_is_most_like_the_teacher_and_not_deeper() -> None:
    search = Scripted({3: [(9, 0.9), (7, 0.6)], 4: [(8, 0.7), (6, 0.65)]})
    found = laco(search, [(3, 0.5), (4, 0.5)], [5, 6, 7, 8, 9])
    depths = [len(one.stack) if one.stack else None for one in found]
    assert depths == [None, 6, 6, 8, 9]
    assert [one.asked_layers for one in found] == [5, 6, 7, 8, 9]
