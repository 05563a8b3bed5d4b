"""Looking at a run while it goes."""

import json
import math
from pathlib import Path

import pytest
import torch
from distilling import fresh_bank, recipe, text, trainer_of
from fakes import ARCHITECTURES, tiny_bank
from torch.nn import functional as F

from anysize.family.assembly import assemble
from anysize.family.order import OrderName
from anysize.family.variant import Variant
from anysize_training.distill.alignment import block_ends
from anysize_training.distill.batches import Packing
from anysize_training.distill.evaluation import HeldOut
from anysize_training.distill.processes import Processes
from anysize_training.distill.recipe import Run

CPU = torch.device("cpu")


@pytest.mark.parametrize(("order", "half"), [("last_to_first", (2, 3)), ("first_to_last", (1, 2))])
@pytest.mark.parametrize("packing", ["documents", "stream", "one_per_row"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_perplexities_and_cosines_are_those_of_assembled_models(
    architecture: str, packing: Packing, order: OrderName, half: tuple[int, ...]
) -> None:
    bank = tiny_bank(architecture, kind="full")
    sequences = text(packing=packing).training
    processes = Processes(Run(batch_size=4, micro_batch_size=2), CPU)
    held_out = HeldOut(bank, order, sequences, rows_at_once=5, processes=processes, bfloat16=False)
    found = held_out.evaluate((bank.teacher, bank.student))

    batch = sequences.rows(torch.arange(len(sequences)))
    states, perplexities = {}, {}
    for name, patched in (("student", ()), ("middle", half), ("teacher", (1, 2, 3))):
        model = assemble(bank, Variant.of(3, patched))
        outputs = []
        handles = [
            layer.register_forward_hook(lambda _m, _i, output, kept=outputs: kept.append(output))
            for layer in bank.architecture.layers_of(model)
        ]
        logits = model(batch.inputs_BL, position_ids=batch.positions_BL, use_cache=False).logits
        for handle in handles:
            handle.remove()
        states[name] = outputs
        loss = F.cross_entropy(logits[batch.is_counted_BL], batch.targets_BL[batch.is_counted_BL])
        perplexities[name] = math.exp(loss.item())
    assert found.student_perplexity == pytest.approx(perplexities["student"], rel=1e-4)
    assert found.middle_perplexity == pytest.approx(perplexities["middle"], rel=1e-4)
    assert found.teacher_perplexity == pytest.approx(perplexities["teacher"], rel=1e-4)
    for position, end in enumerate(block_ends(bank.blocks)):
        similarity = F.cosine_similarity(states["student"][position], states["teacher"][end], dim=-1)
        expected = similarity[batch.is_counted_BL].mean().item()
        assert found.cosine[position] == pytest.approx(expected, abs=1e-5)


def test_a_run_evaluates_every_so_often_and_at_its_end(tmp_path: Path) -> None:
    made = recipe(run={"steps": 5, "evaluate_every": 2})
    trainer_of(made, fresh_bank(made), text(held_out=3), tmp_path).train()
    lines = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 3, 4]
    assert all(len(line["cosine"]) == 3 for line in lines)
    assert len({line["teacher_perplexity"] for line in lines}) == 1
    assert len({line["student_perplexity"] for line in lines}) == 3


def test_an_evaluation_changes_nothing_in_the_run(tmp_path: Path) -> None:
    series = []
    for every in (0, 1):
        made = recipe(run={"evaluate_every": every})
        trainer_of(made, fresh_bank(made), text(held_out=3), tmp_path / str(every)).train()
        lines = (tmp_path / str(every) / "log.jsonl").read_text().splitlines()
        series.append([json.loads(line)["total"] for line in lines])
    assert series[0] == series[1]


def test_a_bfloat16_run_is_evaluated_as_it_is_trained() -> None:
    bank, sequences = tiny_bank("llama"), text().training
    processes = Processes(Run(batch_size=4, micro_batch_size=2), CPU)
    exact, rough = (
        HeldOut(bank, "last_to_first", sequences, rows_at_once=5, processes=processes, bfloat16=chosen).evaluate(
            (bank.teacher, bank.student)
        )
        for chosen in (False, True)
    )
    assert rough.student_perplexity != exact.student_perplexity
    assert rough.student_perplexity == pytest.approx(exact.student_perplexity, rel=0.05)
