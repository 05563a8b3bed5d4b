"""A ladder in a comparison: which sizes a way to choose them serves, and what they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anysize.family.blocks import BlockMap
from anysize.family.order import positions_in_order
from anysize.family.variant import Variant
from anysize_training.study.ladder import Scored, best_of_each_depth, falling
from anysize_training.study.order.cosine import cosine_order, cosine_similarities
from anysize_training.study.order.exact import exact
from anysize_training.study.order.kl_greedy import kl_greedy
from anysize_training.study.order.method import Method
from anysize_training.study.order.scores import Scores
from anysize_training.study.quality import Quality


@dataclass(frozen=True, slots=True)
class Contender:
    """A ladder.

    Attributes:
        name: of the method, or what else the ladder is.
        order: the patch order that it follows, where it follows one.
        ladder: its sizes from student to teacher, at most one for each depth.
    """

    name: str
    order: tuple[int, ...] | None
    ladder: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Means:
    """What a ladder is worth on a text.

    Attributes:
        sizes_kl, sizes_perplexity: means over its interior sizes. Ladders with larger sizes look better for that.
        depths_kl, depths_perplexity: means over interior depths; see `mean_over_depths`.
    """

    sizes_kl: float
    sizes_perplexity: float
    depths_kl: float
    depths_perplexity: float

    @classmethod
    def of(cls, ladder: Sequence[Variant], qualities: Mapping[Variant, Quality], blocks: BlockMap) -> "Means":
        """Of a ladder from student to teacher with a size between."""
        kl = {variant.depth(blocks): qualities[variant].kl for variant in ladder}
        perplexity = {variant.depth(blocks): qualities[variant].perplexity for variant in ladder}
        return cls(
            sizes_kl=_mean([*kl.values()][1:-1]),
            sizes_perplexity=_mean([*perplexity.values()][1:-1]),
            depths_kl=mean_over_depths(kl, blocks),
            depths_perplexity=mean_over_depths(perplexity, blocks),
        )


def contend(method: Method, scores: Scores) -> Contender:
    """The ladder that a method chooses."""
    order = _order(method, scores)
    return Contender(method, order, ladder_of(order, scores))


def best_subsets(scores: Scores) -> Contender:
    """The best subsets, nested or not: what no patch order can beat. Measures every subset."""
    return Contender("subsets", None, _ladder(scores.everything(), scores.blocks))


def ladder_of(order: Sequence[int], scores: Scores) -> tuple[Variant, ...]:
    """The sizes worth serving of those that patching in an order gives: each nearer to the teacher than all before."""
    chain = [Variant.of(len(order), order[:count]) for count in range(len(order) + 1)]
    return _ladder(scores.of(chain, "scoring the order"), scores.blocks)


def mean_over_depths(values: Mapping[int, float], blocks: BlockMap) -> float:
    """The mean over all depths between student and teacher of what a budget of so many layers gets.

    It gets the largest size that is not deeper. So ladders of different sizes are compared on the same budgets; with
    blocks of two layers it is the mean over interior sizes (arXiv 2607.08170).

    Args:
        values: of a ladder's sizes, by depth; that of the student is among them.
        blocks: for M and N, which lie at least two apart.
    """
    depths = range(blocks.student_layers + 1, blocks.teacher_layers)
    return _mean([values[max(depth for depth in values if depth <= budget)] for budget in depths])


def _order(method: Method, scores: Scores) -> tuple[int, ...]:
    if method == "kl_greedy":
        return kl_greedy(scores)
    if method == "exact":
        return exact({variant: quality.kl for variant, quality in scores.everything().items()}, scores.blocks)
    if method == "last_to_first" or method == "first_to_last":
        return positions_in_order(method, scores.blocks.student_layers)
    return cosine_order(cosine_similarities(scores.patchwork), low_first=method == "cosine_low_first")


def _ladder(qualities: Mapping[Variant, Quality], blocks: BlockMap) -> tuple[Variant, ...]:
    scored = [Scored(variant, quality.kl) for variant, quality in qualities.items()]
    return tuple(one.variant for one in falling(best_of_each_depth(scored, blocks)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
