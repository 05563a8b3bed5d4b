"""The plan of a step: every row goes through its own stack in order, no layer is called twice."""

from hypothesis import given
from hypothesis import strategies as st

from anysize.engine.plan import Plan, plan_step
from anysize.family.blocks import BlockMap
from anysize.family.variant import LayerRef, Owner, Variant

BLOCKS = BlockMap((0, 2, 3, 6), 8)
variants = st.tuples(*[st.booleans()] * BLOCKS.student_layers).map(Variant)
entries = st.one_of(st.just(0), st.integers(0, BLOCKS.student_layers - 1))
mixes = st.lists(st.tuples(variants, st.integers(1, 3), entries), min_size=1, max_size=8)


def below(position: int) -> BlockMap:
    """The blocks of the positions before one."""
    stop = (*BLOCKS.kept, BLOCKS.teacher_layers)[position]
    return BlockMap(BLOCKS.kept[:position], stop)


def walk(plan: Plan, rows: list[tuple[Variant, int, int]], *, shares_base: bool) -> list[list[LayerRef]]:
    """Carry numbered tokens through a plan as the sweep would; the layers that each row met."""
    met = [[*Variant(variant.choice[:entry]).stack(below(entry))] if entry else [] for variant, _, entry in rows]
    packed = [(row, token) for row in plan.rows for token in range(rows[row][1])]
    for number, position in enumerate(plan.positions):
        if position.order is not None:
            packed = [packed[token] for token in position.order]
        present = [(row, token) for row in position.rows for token in range(rows[row][1])]
        assert packed[: len(present)] == present, "those who take part stand first"
        assert {row for row, (_, _, entry) in enumerate(rows) if entry <= number} == set(position.rows)
        for visit in position.visits:
            assert visit.rows, "a layer is called for nobody"
            here = packed[visit.tokens]
            assert here == [(row, token) for row in visit.rows for token in range(rows[row][1])]
            assert [len(met[row]) for row in visit.rows] == list(visit.places)
            is_student = [token < visit.students for token in range(len(here))]
            assert is_student == [
                visit.layer.layer == (BLOCKS.kept[number] if shares_base else number)
                and not rows[row][0].choice[number]
                for row, _ in here
            ]
            for row in visit.rows:
                treated_as_student = shares_base and not rows[row][0].choice[number]
                met[row].append(LayerRef(Owner.STUDENT, number) if treated_as_student else visit.layer)
    assert [packed[token] for token in plan.last] == [(row, tokens - 1) for row, (_, tokens, _) in enumerate(rows)]
    return met


@given(rows=mixes, shares_base=st.booleans())
def test_each_row_meets_the_layers_of_its_own_stack_in_order(rows: list[tuple[Variant, int, int]], shares_base: bool):
    plan = plan_step(BLOCKS, rows, shares_base=shares_base)

    assert walk(plan, rows, shares_base=shares_base) == [list(variant.stack(BLOCKS)) for variant, _, _ in rows]


@given(rows=mixes, shares_base=st.booleans())
def test_no_layer_is_called_twice(rows: list[tuple[Variant, int, int]], shares_base: bool):
    plan = plan_step(BLOCKS, rows, shares_base=shares_base)

    called = [visit.layer for position in plan.positions for visit in position.visits]
    assert len(called) == len(set(called))


@given(
    order=st.permutations(range(1, 5)),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=8),
    shares_base=st.booleans(),
)
def test_on_a_nested_ladder_no_row_ever_moves(order: list[int], counts: list[int], shares_base: bool):
    rows = [(Variant.of(BLOCKS.student_layers, order[:count]), 1, 0) for count in counts]

    plan = plan_step(BLOCKS, rows, shares_base=shares_base)

    assert all(position.order is None for position in plan.positions)
