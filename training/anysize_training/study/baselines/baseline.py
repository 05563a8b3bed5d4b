"""One call for every baseline: for each asked depth the model that a method has for it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from tqdm import tqdm

from anysize.errors import SettingsError
from anysize.family.blocks import BlockMap
from anysize.family.variant import Owner, Variant
from anysize_training.stack import Stack, plain_stack
from anysize_training.study.baselines.laco import LaCo, Merge
from anysize_training.study.baselines.method import Method
from anysize_training.study.baselines.naive import naive_removals
from anysize_training.study.baselines.shortgpt import influence_removals
from anysize_training.study.baselines.subject import Subject


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a method has for a depth.

    Attributes:
        method: its name.
        asked_layers: the depth.
        stack: the model; of at most so many layers. None where the method reaches none that small.
        merge: of LaCo: the state of the run that it is.
    """

    method: Method
    asked_layers: int
    stack: Stack | None
    merge: Merge | None = None


def baselines_of(
    method: Method,
    subject: Subject,
    depths: Sequence[int],
    inputs_NL: Tensor | None,
    laco_runs: Sequence[tuple[int, float]],
) -> list[Baseline]:
    """What a method has for each depth.

    Args:
        method: by name; `untrained` wants a family and has its depths.
        subject: the teacher.
        depths: asked for; at least one.
        inputs_NL: token ids of N calibration windows; `naive` and `untrained` want none.
        laco_runs: C and T of each run of LaCo.

    Raises:
        SettingsError: the method does not reach a depth.
    """
    architecture, teacher = subject.architecture, subject.teacher
    if method == "naive":
        return pruned(method, naive_removals(subject.layers), subject.layers, depths)
    if method == "untrained":
        assert subject.family is not None
        sizes = [size.variant for size in subject.family.ladder if not all(size.variant.choice)]
        return untrained(subject.family.bank.blocks, sizes)
    assert inputs_NL is not None
    if method == "laco_equation" or method == "laco_official":
        search = LaCo(architecture, teacher, inputs_NL, "equation" if method == "laco_equation" else "official")
        return laco(search, laco_runs, depths)
    count, rescored = subject.layers - min(depths), method == "shortgpt_rescored"
    removals = influence_removals(architecture, teacher, inputs_NL, count=count, rescored=rescored)
    return pruned(method, removals, subject.layers, depths)


def pruned(method: Method, removals: Sequence[int], layers: int, depths: Iterable[int]) -> list[Baseline]:
    """The models of a method that removes one layer after the other.

    Args:
        method: its name.
        removals: layers in the order in which they go.
        layers: N, of the teacher.
        depths: to be reached.

    Raises:
        SettingsError: the method does not remove so many.
    """
    found: list[Baseline] = []
    for depth in depths:
        gone = set(removals[: layers - depth])
        if layers - len(gone) > depth:
            raise SettingsError(f"{method} leaves at least {layers - len(removals)} layers, not {depth}; ask for more")
        found.append(Baseline(method, depth, plain_stack(layer for layer in range(layers) if layer not in gone)))
    return found


def laco(search: LaCo, runs: Sequence[tuple[int, float]], depths: Iterable[int]) -> list[Baseline]:
    """LaCo, which knows no depth to reach: a run of some C and T ends where it ends.

    Taken is what is most like the teacher on the calibration text among all that the runs had on their way, so that a
    run may also stop early, and that is no deeper than asked. This gives LaCo more than its authors do.

    Args:
        search: for one reading and text.
        runs: C and T of each.
        depths: asked for.
    """
    states: dict[Stack, Merge] = {}
    with tqdm(runs, desc=f"LaCo, {search.reading}", unit="run", leave=False) as progress:
        for merged, threshold in progress:
            for state in search.run(merged, threshold):
                # The end of one run may be on the way of another.
                if state.stack not in states or state.is_last:
                    states[state.stack] = state
    method: Method = "laco_equation" if search.reading == "equation" else "laco_official"
    found: list[Baseline] = []
    for depth in depths:
        fitting = [state for state in states.values() if len(state.stack) <= depth]
        best = max(fitting, key=lambda state: state.similarity, default=None)
        found.append(Baseline(method, depth, best.stack if best else None, best))
    return found


def untrained(blocks: BlockMap, variants: Iterable[Variant]) -> list[Baseline]:
    """A family's sizes with the teacher layers that the student was initialised from in the place of trained ones.

    Args:
        blocks: of the family.
        variants: its sizes.
    """
    return [
        Baseline(
            "untrained",
            variant.depth(blocks),
            plain_stack(
                ref.layer if ref.owner is Owner.TEACHER else blocks.kept[ref.layer] for ref in variant.stack(blocks)
            ),
        )
        for variant in variants
    ]
