"""Compiled kernels against torch, and what happens where they cannot be compiled."""

import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from anysize.engine.kernels.build import build
from anysize.engine.kernels.kernels import Kernels
from anysize.errors import SettingsError

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")

sizes = st.integers(1, 80)
# Rows of more than 640 numbers go over tokens in pieces.
widths = sizes | st.integers(620, 660) | st.integers(1270, 1300)

# Of what a token attends to: it is cut into spans of at least 128, and of more from 1025 on.
lengths = st.integers(1, 300) | st.integers(1000, 1060)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60)
@given(tokens=st.integers(1, 20), width=widths, features=sizes, has_bias=st.booleans(), seed=st.integers(0, 99))
def test_linear_maps_are_those_of_torch_and_to_the_bit_whatever_comes_with_them(
    kernels: Kernels, tokens: int, width: int, features: int, has_bias: bool, seed: int
):
    x_TI, weight_OI = random(seed, tokens, width), random(seed + 1, features, width)
    bias_O = random(seed + 2, features) if has_bias else None

    together_TO = kernels.linear(x_TI, weight_OI, bias_O=bias_O)

    torch.testing.assert_close(together_TO, F.linear(x_TI, weight_OI, bias_O), rtol=1e-5, atol=5e-4)
    for token in range(tokens):
        alone_1O = kernels.linear(x_TI[token : token + 1], weight_OI, bias_O=bias_O)
        assert torch.equal(alone_1O[0], together_TO[token])


@settings(max_examples=30)
@given(tokens=st.integers(1, 9), width=widths, features=sizes, seed=st.integers(0, 99))
def test_int8_weights_are_what_they_stand_for(kernels: Kernels, tokens: int, width: int, features: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randint(-127, 128, (features, width), dtype=torch.int8, generator=generator)
    scale_O, x_TI = random(seed, features).abs(), random(seed + 1, tokens, width)

    out_TO = kernels.linear(x_TI, weight_OI, scale_O=scale_O)

    torch.testing.assert_close(out_TO, x_TI @ (weight_OI.float() * scale_O[:, None]).T, rtol=1e-4, atol=1e-2)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_change_nothing(kernels: Kernels, threads: Callable[[int], None]):
    x_TI, weight_OI = random(0, 9, 100), random(1, 1000, 100)
    threads(1)
    expected_TO = kernels.linear(x_TI, weight_OI)

    for count in (2, 3, 9):
        threads(count)
        for _ in range(50):
            assert torch.equal(kernels.linear(x_TI, weight_OI), expected_TO)


def test_torchs_threads_are_asleep_while_kernels_are_alone_and_back_whatever_happens(
    kernels: Kernels, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
):
    threads(3)
    used: list[int] = []
    monkeypatch.setattr(kernels, "_sweep", lambda *given: used.append(given[-1]))

    def fail() -> None:
        with kernels.alone():
            used.append(torch.get_num_threads())
            kernels.sweep(0, 0, 0)
            raise MemoryError

    with pytest.raises(MemoryError):
        fail()
    kernels.sweep(0, 0, 0)

    assert torch.get_num_threads() == 3
    assert used == [1, 3, 3]


def test_callers_at_the_same_time_do_not_meet(kernels: Kernels, threads: Callable[[int], None]):
    threads(3)
    weight_OI = random(1, 500, 64)

    def call(seed: int) -> bool:
        x_TI = random(seed, 1 + seed % 7, 64)
        return torch.allclose(kernels.linear(x_TI, weight_OI), F.linear(x_TI, weight_OI), atol=1e-4)

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(call, range(400)))


def test_a_process_that_forks_goes_on_alone(kernels: Kernels, threads: Callable[[int], None]):
    threads(2)
    x_TI, weight_OI = random(0, 3, 64), random(1, 500, 64)
    expected_TO = kernels.linear(x_TI, weight_OI)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of threads that a child does not have
        child = os.fork()
    if not child:
        is_right = torch.equal(kernels.linear(x_TI, weight_OI), expected_TO)
        os._exit(0 if is_right else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@settings(max_examples=30)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 5), sizes), seed=st.integers(0, 99))
def test_norm_and_gate_are_those_of_torch(kernels: Kernels, shape: tuple[int, int, int], seed: int):
    x, up, weight_D = random(seed, *shape) * 6, random(seed + 1, *shape), random(seed + 2, shape[-1])

    torch.testing.assert_close(kernels.rms_norm(x, weight_D, 1e-5), F.rms_norm(x, shape[-1:], weight_D, 1e-5))
    torch.testing.assert_close(kernels.silu_times_(x.clone(), up), F.silu(x) * up, rtol=2e-5, atol=1e-5)


def test_the_gate_survives_every_size_of_number(kernels: Kernels):
    x = torch.tensor([-1e30, -1e4, -90.0, -88.0, -1e-30, 0.0, 1e-30, 88.0, 90.0, 1e4, 1e30, torch.nan])

    got = kernels.silu_times_(x.clone(), torch.ones_like(x))

    torch.testing.assert_close(got, F.silu(x), equal_nan=True)


@settings(max_examples=40)
@given(
    seen=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 90)), min_size=1, max_size=6),
    heads=st.integers(1, 3),
    group=st.integers(1, 5),
    width=st.sampled_from([6, 8, 16, 40, 64, 128]),
    page_tokens=st.integers(1, 17),
    seed=st.integers(0, 99),
)
def test_attention_is_that_of_torch_over_scattered_pages(
    kernels: Kernels,
    seen: list[tuple[int, int]],
    heads: int,
    group: int,
    width: int,
    page_tokens: int,
    seed: int,
):
    pages = 180 // page_tokens + 2
    keys_SGD, values_SGD = (random(seed + k, pages * page_tokens, heads, width) * 2 for k in range(2))
    query_THD = random(seed, len(seen), heads * group, width)
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.randperm(pages, generator=generator) for _ in seen]
    rows = [
        [table.data_ptr(), token, first, first + count]
        for token, (table, (first, count)) in enumerate(zip(tables, seen, strict=True))
    ]

    out_THD = kernels.attend(torch.tensor(rows), query_THD, keys_SGD, values_SGD, page_tokens, 0.3)

    for token, (_, _, first, stop) in enumerate(rows):
        at_L = torch.arange(first, stop)
        slots_L = tables[token][at_L // page_tokens] * page_tokens + at_L % page_tokens
        keys_GLD, values_GLD = (of_all[slots_L].transpose(0, 1) for of_all in (keys_SGD, values_SGD))
        wanted_HD = F.scaled_dot_product_attention(
            query_THD[token][:, None], keys_GLD, values_GLD, scale=0.3, enable_gqa=True
        )[:, 0]
        torch.testing.assert_close(out_THD[token], wanted_HD, rtol=1e-4, atol=5e-5)


@settings(max_examples=60)
@given(count=st.integers(2, 90), seed=st.integers(0, 999))
def test_the_highest_of_two_scores_that_no_float_can_raise_e_to_takes_all(kernels: Kernels, count: int, seed: int):
    first = seed % (count - 1)
    keys_SGD, values_SGD = torch.zeros(count, 1, 16), random(seed, count, 1, 16)
    keys_SGD[first], keys_SGD[first + 1] = 15.0, 20.0
    table, query_THD = torch.zeros(1, dtype=torch.int64), torch.ones(1, 1, 16)

    out_THD = kernels.attend(
        torch.tensor([[table.data_ptr(), 0, 0, count]]), query_THD, keys_SGD, values_SGD, count, 1.0
    )

    torch.testing.assert_close(out_THD[0], values_SGD[first + 1])


@settings(max_examples=40)
@given(
    runs=st.lists(st.tuples(lengths, st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=3),
    group=st.integers(1, 5),
    width=st.sampled_from([16, 40, 64]),
    seed=st.integers(0, 99),
)
def test_tokens_that_follow_each_other_attend_to_the_bit_as_each_alone(
    kernels: Kernels, runs: list[tuple[int, int, int]], group: int, width: int, seed: int
):
    page_tokens, heads, most = 16, 2, 1200
    keys_SGD, values_SGD = (random(seed + k, most, heads, width) for k in range(2))
    tables = [torch.randperm(most // page_tokens, generator=torch.Generator().manual_seed(n)) for n in range(len(runs))]
    seen = [
        (table.data_ptr(), min(window * step, length + step - 1), length + step)
        for table, (length, count, window) in zip(tables, runs, strict=True)
        for step in range(count)
    ]
    rows = torch.tensor([[pages, token, first, stop] for token, (pages, first, stop) in enumerate(seen)])
    query_THD = random(seed, len(seen), heads * group, width)

    together_THD = kernels.attend(rows, query_THD, keys_SGD, values_SGD, page_tokens, 0.2)

    for token in range(len(seen)):
        alone_THD = kernels.attend(rows[token : token + 1], query_THD, keys_SGD, values_SGD, page_tokens, 0.2)
        assert torch.equal(alone_THD[token], together_THD[token])


def test_they_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path))
    said: list[str] = []

    first = build(said.append)
    second = build(said.append)

    assert first == second
    assert len(said) == 1
    assert "once" in said[0]
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_another_compiler_gets_a_library_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path))
    usual = build(print)

    monkeypatch.setenv("CXX", "c++ -DSOMETHING")

    assert build(print) != usual


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, r"no C\+\+ compiler \(looked for .*compiler\).*CXX"),
        (
            "#!/bin/sh\necho 'error: no such standard' >&2; exit 1\n",
            "cannot compile the kernels: error: no such standard",
        ),
    ],
    ids=["none", "broken"],
)
def test_without_a_compiler_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
):
    compiler = tmp_path / "compiler"
    if script:
        compiler.write_text(script)
        compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))

    with pytest.raises(SettingsError, match=message):
        Kernels.compiled(print)

    assert not [*tmp_path.glob("cache/kernels/*")]


def test_a_compiler_that_gets_it_wrong_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wrong = tmp_path / "wrong"
    wrong.write_text(
        f"""#!/bin/sh
        for argument in "$@"; do
            case "$argument" in *kernels.cpp)
                cp "${{argument%/*}}"/*.h "$argument" {tmp_path}
                sed -i 's/return sums(v, v, v, v)/return 1 + sums(v, v, v, v)/' {tmp_path}/vector.h
                argument={tmp_path}/kernels.cpp
            esac
            set -- "$@" "$argument"; shift
        done
        exec c++ "$@"
        """
    )
    wrong.chmod(0o755)
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(wrong))

    with pytest.raises(SettingsError, match="compute nonsense"):
        Kernels.compiled(print)


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path / "file"))

    with pytest.raises(SettingsError, match=r"cannot be kept in .*ANYSIZE_CACHE"):
        build(print)


def test_a_damaged_library_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANYSIZE_CACHE", str(tmp_path))
    build(print).write_bytes(b"nonsense")

    with pytest.raises(SettingsError, match=r"cannot be loaded: .*; delete "):
        Kernels.compiled(print)
