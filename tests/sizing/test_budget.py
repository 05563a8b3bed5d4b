"""Which size a budget gets."""

import math
from functools import cache
from typing import Any

import pytest
from fakes import byte_tokenizer, tiny_bank
from hypothesis import given
from hypothesis import strategies as st

from anysize.errors import BudgetError, VariantError
from anysize.family.family import Family, Size
from anysize.sizing.budget import Budget, choose, find_size


@cache
def family() -> Family:
    return Family("tiny", tiny_bank("llama", teacher_layers=12, kept=(0, 2, 3, 6, 10)), byte_tokenizer())


def ladder() -> tuple[Size, ...]:
    return family().ladder


def costs(size: Size) -> dict[str, Any]:
    return {
        "parameters": size.footprint.parameters,
        "fraction": size.footprint.parameters / ladder()[-1].footprint.parameters,
        "memory_bytes": size.footprint.bytes,
    }


def test_the_ladder_of_these_tests_has_several_sizes():
    assert len(ladder()) >= 5
    assert [size.footprint.parameters for size in ladder()] == sorted({s.footprint.parameters for s in ladder()})


def test_without_a_budget_the_teacher_answers():
    assert choose(ladder(), Budget()) == family().teacher


@pytest.mark.parametrize("bound", ["parameters", "fraction", "memory_bytes"])
def test_a_bound_equal_to_what_a_size_costs_admits_it(bound: str):
    for size in ladder():
        assert choose(ladder(), Budget(**{bound: costs(size)[bound]})) == size


@pytest.mark.parametrize("bound", ["parameters", "fraction", "memory_bytes"])
def test_a_bound_just_under_what_a_size_costs_gives_the_next_smaller_one(bound: str):
    for smaller, size in zip(ladder(), ladder()[1:], strict=False):
        cost = costs(size)[bound]
        just_under: Any = math.nextafter(cost, 0) if bound == "fraction" else cost - 1
        assert choose(ladder(), Budget(**{bound: just_under})) == smaller


@pytest.mark.parametrize("tightest", ["parameters", "fraction", "memory_bytes"])
def test_of_several_bounds_the_tightest_decides(tightest: str):
    wanted, looser = ladder()[1], ladder()[3]
    budget = Budget(**{**costs(looser), tightest: costs(wanted)[tightest]})
    assert choose(ladder(), budget) == wanted


@given(
    parameters=st.none() | st.integers(1, 2 * family().teacher.footprint.parameters),
    fraction=st.none() | st.floats(0, 1, exclude_min=True),
    memory_bytes=st.none() | st.integers(1, 2 * family().teacher.footprint.bytes),
)
def test_the_largest_admitted_size_answers_any_budget(
    parameters: int | None, fraction: float | None, memory_bytes: int | None
):
    def inside(size: Size) -> bool:
        bounds = {"parameters": parameters, "fraction": fraction, "memory_bytes": memory_bytes}
        return all(limit is None or costs(size)[name] <= limit for name, limit in bounds.items())

    budget = Budget(parameters=parameters, fraction=fraction, memory_bytes=memory_bytes)
    admitted = [size for size in ladder() if inside(size)]
    if admitted:
        assert choose(ladder(), budget) == max(admitted, key=lambda size: size.footprint.parameters)
    else:
        with pytest.raises(BudgetError):
            choose(ladder(), budget)


@pytest.mark.parametrize("budget", [Budget(parameters=1), Budget(fraction=1e-9), Budget(memory_bytes=1)])
def test_a_budget_below_the_smallest_size_names_that_size_and_its_parameters(budget: Budget):
    with pytest.raises(BudgetError) as refusal:
        choose(ladder(), budget)
    assert repr(ladder()[0].id) in str(refusal.value)
    assert str(ladder()[0].footprint.parameters) in str(refusal.value)


def test_a_size_is_found_by_a_fraction():
    wanted = ladder()[2]
    between = (wanted.fraction + ladder()[3].fraction) / 2
    assert find_size(family(), str(between)) == wanted
    assert find_size(family(), "1") == find_size(family(), "1.0") == family().teacher


@pytest.mark.parametrize("text", ["teacher", "student", "p2", "p1.4-5"])
def test_a_size_is_found_by_its_id_on_the_ladder_or_not(text: str):
    assert find_size(family(), text).id == text


@pytest.mark.parametrize("text", ["0", "-0.5", "1.5", "nan", "inf", "-inf", "1e400"])
def test_a_number_that_is_no_fraction_is_refused(text: str):
    with pytest.raises(BudgetError, match=r"above 0 and at most 1"):
        find_size(family(), text)


def test_a_fraction_below_the_smallest_size_names_that_size():
    with pytest.raises(BudgetError, match=repr(ladder()[0].id)):
        find_size(family(), "0.01")


@pytest.mark.parametrize(
    "text", ["", " ", "big", "p", "p0", "p6", "p3-2", "p1..2", "p²", "0.7x", "teacher ", "p" * 5000]
)
def test_a_text_that_is_no_size_is_refused_in_a_short_message(text: str):
    with pytest.raises(VariantError) as refusal:
        find_size(family(), text)
    assert len(str(refusal.value)) < 400
