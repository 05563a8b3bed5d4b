"""Damaged and hostile family folders: each gives one `ArtifactError` that names the file, and nothing is loaded."""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import change_json, list_again, put
from fakes import CPU, tiny_config, tiny_model, write_tiny_family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from anysize.cli import app
from anysize.errors import ArtifactError
from anysize.family.artifact import read_family
from anysize.family.manifest import read_manifest

Folder = Callable[[], Path]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Intact families, `delta` and `full`, to make damaged copies of."""
    root = tmp_path_factory.mktemp("pristine")
    write_tiny_family(root / "delta")
    write_tiny_family(root / "full", kind="full")
    return root


@pytest.fixture(params=["delta", "full"])
def either(request: pytest.FixtureRequest, pristine: Path, tmp_path: Path) -> Path:
    """A copy of either kind of family."""
    return shutil.copytree(pristine / request.param, tmp_path / "family")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy of a `delta` family."""
    return shutil.copytree(pristine / "delta", tmp_path / "family")


def refused(folder: Path, at: str, match: str | None = None) -> ArtifactError:
    """Read a folder, expecting an error about the file `at`, in one line of bounded length."""
    with pytest.raises(ArtifactError, match=match) as caught:
        read_family(folder, dtype=torch.float32, device=CPU)
    assert caught.value.path == folder / at, caught.value
    assert str(folder / at) in str(caught.value)
    return caught.value


def change_tensors(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def change_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the header of a safetensors file and leave its data."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    encoded = json.dumps(header).encode()
    put(path, struct.pack("<Q", len(encoded)) + encoded + content[8 + length :])


# ---- the weights ----


@pytest.mark.parametrize("listed", [False, True], ids=["manifest as it was", "manifest agrees"])
def test_weights_cut_off_anywhere_are_refused(listed: bool, either: Path) -> None:
    path = either / "student.safetensors"
    whole = path.read_bytes()
    for step in range(32):
        put(path, whole[: len(whole) * step // 32 + step % 2])
        if listed:
            list_again(either)
        refused(either, "student.safetensors", "intact safetensors" if listed else "bytes")


def test_a_flipped_bit_anywhere_in_any_file_is_refused(folder: Path) -> None:
    for name in ("student.safetensors", "teacher/model.safetensors", "teacher/config.json", "README.md"):
        whole = (folder / name).read_bytes()
        for step in range(8):
            place = len(whole) * step // 8
            put(folder / name, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            refused(folder, name, "sha256")
        put(folder / name, whole)


@pytest.mark.parametrize("name", ["student.safetensors", "teacher/model.safetensors", "teacher/config.json"])
def test_a_wrong_size_or_hash_or_a_missing_file_is_refused(name: str, folder: Path) -> None:
    manifest = (folder / "family.json").read_bytes()
    change_json(folder / "family.json", lambda raw: raw["files"][name].update(bytes=raw["files"][name]["bytes"] + 1))
    refused(folder, name, "bytes, family.json says")
    put(folder / "family.json", manifest)
    change_json(folder / "family.json", lambda raw: raw["files"][name].update(sha256="0" * 64))
    refused(folder, name, "sha256")
    put(folder / "family.json", manifest)
    (folder / name).unlink()
    refused(folder, name, "is missing")


def test_a_file_that_is_not_listed_is_refused(folder: Path) -> None:
    put(folder / "teacher" / "extra.json", b"{}")
    refused(folder, "teacher/extra.json", "not listed")


def test_a_student_must_be_listed(folder: Path) -> None:
    (folder / "student.safetensors").unlink()
    list_again(folder)
    refused(folder, "family.json", r"lists no student\.safetensors")


def _first(tensors: Tensors) -> str:
    return sorted(name for name, tensor in tensors.items() if tensor.dim() == 2)[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update(extra=torch.zeros(1)), "'extra' belongs to no part"),
        (lambda t: t.update({"model.layers.0.self_attn.bias": torch.zeros(1)}), "belongs to no part"),
        (lambda t: t.update({"model.layers.0.attn.bias": torch.zeros(1)}), "belongs to no part"),
        (lambda t: t.pop(_first(t)), "is missing"),
        (lambda t: t.update(renamed=t.pop(_first(t))), "is missing"),
        (lambda t: t.update({_first(t): t[_first(t)].T}), "has shape"),
        (lambda t: t.update({_first(t): t[_first(t)][:-1]}), "has shape"),
        (lambda t: t.update({_first(t): t[_first(t)].flatten()}), "has shape"),
        (lambda t: t.update({_first(t): t[_first(t)].to(torch.int32)}), "is I32"),
        (lambda t: t.update({_first(t): t[_first(t)].to(torch.bool)}), "is BOOL"),
        (lambda t: t.update({_first(t): t[_first(t)].to(torch.float64)}), "is F64"),
        (lambda t: t.clear(), "is missing"),
    ],
)
def test_tensors_that_are_not_the_students_are_refused_even_with_right_hashes(
    change: Callable[[Tensors], object], reason: str, either: Path
) -> None:
    change_tensors(either / "student.safetensors", change)
    list_again(either)
    refused(either, "student.safetensors", reason)


@pytest.mark.parametrize(
    "lie",
    [
        lambda entry: entry.update(shape=[2**31, 2**31]),
        lambda entry: entry.update(shape=[-1, 4]),
        lambda entry: entry.update(data_offsets=[0, 2**62]),
        lambda entry: entry.update(data_offsets=[8, 4]),
        lambda entry: entry.update(dtype="F128"),
        lambda entry: entry.update(dtype="F16"),
        lambda entry: entry.clear(),
    ],
)
def test_a_header_that_lies_is_refused(lie: Callable[[dict[str, Any]], object], either: Path) -> None:
    path = either / "student.safetensors"
    change_header(path, lambda header: lie(header[_first(load_file(path))]))
    list_again(either)
    refused(either, "student.safetensors", "intact safetensors")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused(length: int, folder: Path) -> None:
    content = (folder / "student.safetensors").read_bytes()
    put(folder / "student.safetensors", struct.pack("<Q", length) + content[8:])
    list_again(folder)
    refused(folder, "student.safetensors", "intact safetensors")


def test_a_header_of_deep_nesting_or_no_json_is_refused(folder: Path) -> None:
    for header in (b"[" * 100_000, b'{"a":' * 100_000, b"\xff" * 64, b"null", b"{}"):
        put(folder / "student.safetensors", struct.pack("<Q", len(header)) + header)
        list_again(folder)
        refused(folder, "student.safetensors")


def test_another_teacher_is_refused(folder: Path) -> None:
    tiny_model(tiny_config("llama", 6), seed=9).save_pretrained(folder / "teacher")
    list_again(folder)
    refused(folder, "teacher", "has weights .*, but the student was made for")


def test_one_changed_weight_of_the_teacher_is_refused(folder: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.norm.weight"][3] += 1e-3

    change_tensors(folder / "teacher" / "model.safetensors", change)
    list_again(folder)
    refused(folder, "teacher", "has weights")


def test_a_weights_file_goes_before_an_index_as_it_does_for_transformers(folder: Path) -> None:
    """Otherwise one set of weights would be checked and another one loaded."""
    teacher = folder / "teacher"
    shutil.copy(teacher / "model.safetensors", teacher / "decoy.safetensors")
    names = list(load_file(teacher / "model.safetensors"))
    change_tensors(teacher / "model.safetensors", lambda tensors: [tensor.zero_() for tensor in tensors.values()])
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "decoy.safetensors")}
    put(teacher / "model.safetensors.index.json", json.dumps(index).encode())
    list_again(folder)
    refused(folder, "teacher", "has weights")


@pytest.mark.parametrize(
    "shard", ["../../secret.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "pytorch_model.bin", 3, [], None]
)
def test_an_index_names_safetensors_beside_it_and_nothing_else(shard: object, folder: Path) -> None:
    (folder / "teacher" / "model.safetensors").unlink()
    put(folder / "teacher" / "model.safetensors.index.json", json.dumps({"weight_map": {"a": shard}}).encode())
    list_again(folder)
    refused(folder, "teacher/model.safetensors.index.json", "names a shard")


@pytest.mark.parametrize("weight_map", [{}, [], None, "a"])
def test_an_index_without_a_weight_map_is_refused(weight_map: object, folder: Path) -> None:
    (folder / "teacher" / "model.safetensors").unlink()
    put(folder / "teacher" / "model.safetensors.index.json", json.dumps({"weight_map": weight_map}).encode())
    list_again(folder)
    refused(folder, "teacher/model.safetensors.index.json", "weight_map")


# ---- family.json ----


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kept_layers": []}, "at least one"),
        ({"kept_layers": [1, 2, 5]}, "always kept"),
        ({"kept_layers": [0, 5, 2]}, "strictly increase"),
        ({"kept_layers": [0, 2, 6]}, "does not exist"),
        ({"kept_layers": [0, 2]}, None),
        ({"kept_layers": [0, 2, 10**30]}, "kept_layers"),
        ({"kept_layers": list(range(5000))}, "kept_layers"),
        ({"kept_layers": "0,2,5"}, "kept_layers"),
        ({"kept_layers": [0, 2.0, 5]}, "kept_layers"),
        ({"kept_layers": [False, 2, 5]}, "kept_layers"),
        ({"architecture": "qwen3"}, "is for a qwen3 teacher of 6 layers"),
        ({"architecture": None}, "architecture"),
        ({"teacher_layers": 7}, "teacher of 7 layers"),
        ({"teacher_layers": 0}, "teacher_layers"),
        ({"teacher_layers": "6"}, "teacher_layers"),
        ({"schema_version": 2}, "schema version 2; this release reads version 1"),
        ({"schema_version": "1"}, "schema version '1'"),
        ({"schema_version": None}, "schema version None"),
        ({"surprise": 1}, "surprise"),
        ({"name": "../tiny"}, "name"),
        ({"name": "<script>"}, "name"),
        ({"student": {"kind": "delta", "rank": 4, "alpha": 2}}, "alpha"),
        ({"student": {"kind": "delta", "rank": 5}}, None),
        ({"student": {"kind": "delta", "rank": 0}}, "rank"),
        ({"student": {"kind": "delta", "rank": 10**9}}, "rank"),
        ({"student": {"kind": "full"}}, None),
        ({"student": {"kind": "pickle"}}, "student"),
        ({"teacher": {"kind": "hub", "repo": "../../etc", "revision": "0" * 40, "fingerprint": "0" * 64}}, "repo"),
        ({"teacher": {"kind": "hub", "repo": "a/b", "revision": "main", "fingerprint": "0" * 64}}, "revision"),
        ({"teacher": {"kind": "builtin", "name": "../x", "fingerprint": "0" * 64}}, "name"),
        ({"teacher": {"kind": "folder", "fingerprint": "short"}}, "fingerprint"),
        ({"patch_order": "random"}, "patch_order"),
        ({"patch_order": [1, 2]}, "lists each of the positions"),
        ({"patch_order": [1, 2, 2]}, "lists each of the positions"),
        ({"ladder": []}, "ladder"),
        ({"ladder": ["p9"]}, "p9"),
        ({"ladder": ["student", "p1-2", "p1.2"]}, "twice"),
        ({"files": []}, "files"),
        ({"files": {f"f{i}": {"bytes": 0, "sha256": "0" * 64} for i in range(300)}}, "files"),
        ({"measurements": [{"variant": "p9"}]}, "measurements"),
    ],
)
def test_a_manifest_that_contradicts_the_folder_or_itself_is_refused(
    change: dict[str, Any], reason: str | None, folder: Path
) -> None:
    change_json(folder / "family.json", lambda raw: raw.update(change))
    # Where the manifest is right by itself, the student's tensors do not fit it.
    refused(folder, "family.json" if reason else "student.safetensors", reason or "tensor")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_a_measurement_is_a_finite_positive_number(number: float, folder: Path) -> None:
    measured = {"variant": "p2", "dataset": "d", "dataset_sha256": "0" * 64, "tokens": 1, "perplexity": number}
    change_json(folder / "family.json", lambda raw: raw.update(measurements=[measured]))
    refused(folder, "family.json")


def test_a_number_too_large_for_a_float_is_refused(folder: Path) -> None:
    measured = {"variant": "p2", "dataset": "d", "dataset_sha256": "0" * 64, "tokens": 1, "perplexity": 12345}
    change_json(folder / "family.json", lambda raw: raw.update(measurements=[measured]))
    put(folder / "family.json", (folder / "family.json").read_bytes().replace(b"12345", b"1e999"))
    refused(folder, "family.json", "perplexity")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"NaN",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"schema_version": 1, "teacher_layers": ' + b"9" * 10_000 + b"}",
        b'{"schema_version": 1}',
        b'{"schema_version": 1, "name": "\\ud800"}',
        b"PK\x03\x04" + bytes(100),
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_manifest_is_refused(content: bytes, folder: Path) -> None:
    put(folder / "family.json", content)
    refused(folder, "family.json")


def test_a_manifest_nested_inside_a_free_form_field_is_refused(folder: Path) -> None:
    nested = "[" * 900 + "]" * 900
    provenance = {"command": "x", "recipe": {"deep": 12345}, "data": "x", "tokens": 1, "seconds": 1.0, "versions": {}}
    change_json(folder / "family.json", lambda raw: raw.update(provenance=provenance))
    put(folder / "family.json", (folder / "family.json").read_bytes().replace(b"12345", nested.encode()))
    refused(folder, "family.json")


def test_a_manifest_beyond_its_size_is_not_read(folder: Path) -> None:
    with (folder / "family.json").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: takes no space, but reading it would take all memory
    refused(folder, "family.json", "larger than")


def test_no_folder_and_a_file_in_its_place_are_refused(folder: Path) -> None:
    refused(folder / "nowhere", "family.json", "is missing")
    refused(folder / "README.md", "family.json")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_bytes_in_a_manifest_is_refused_or_loads_the_same_weights(
    pristine: Path, folder: Path, data: st.DataObject
) -> None:
    content = bytearray((pristine / "delta" / "family.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.sampled_from(("set", "delete", "insert")))
        if change == "delete":
            del content[place]
        elif change == "insert":
            content.insert(place, data.draw(st.integers(0, 255)))
        else:
            content[place] = data.draw(st.integers(0, 255))
    put(folder / "family.json", bytes(content))
    try:
        loaded = read_family(folder, dtype=torch.float32, device=CPU)
    except ArtifactError:
        return
    # Such as a change of white space or of the family's name.
    assert loaded.manifest.files == read_manifest(pristine / "delta").files
    assert loaded.bank.blocks.kept == (0, 2, 5)


# ---- names and kinds of files ----


@pytest.mark.parametrize(
    "name",
    [
        "../outside.json",
        "teacher/../../outside.json",
        "/etc/passwd",
        "teacher\\config.json",
        "..\\outside",
        "teacher/\0config.json",
        "teacher/config.json\n",
        "C:config.json",
        "teacher//config.json",
        "./student.safetensors",
        "teacher/",
        "",
        ".hidden",
        "teacher/.hidden",
        "a/b/c.json",
        "student\u2024safetensors",
        "\uff0e\uff0e/outside",
        "stu\u0501ent.safetensors",
        "a" * 5000,
    ],
    ids=ascii,
)
def test_names_that_do_not_lie_plainly_inside_the_folder_are_refused(name: str, folder: Path) -> None:
    put(folder.parent / "outside.json", b"{}")
    change_json(folder / "family.json", lambda raw: raw["files"].update({name: raw["files"]["README.md"]}))
    refused(folder, "family.json", "names a file")


@pytest.mark.parametrize("name", ["student.safetensors", "teacher/config.json", "family.json"])
def test_a_link_out_of_the_folder_is_refused(name: str, folder: Path) -> None:
    outside = folder.parent / "outside"
    shutil.copy(folder / name, outside)
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    refused(folder, name, "outside")


def test_a_link_to_a_folder_is_refused_with_its_files_listed_or_not(folder: Path) -> None:
    (folder / "teacher").rename(folder.parent / "elsewhere")
    (folder / "teacher").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(ArtifactError, match="outside"):
        read_family(folder, dtype=torch.float32, device=CPU)

    def forget(raw: dict[str, Any]) -> None:
        raw["files"] = {name: entry for name, entry in raw["files"].items() if not name.startswith("teacher/")}

    change_json(folder / "family.json", forget)
    refused(folder, "teacher", "not listed")


def test_a_link_that_leads_nowhere_is_refused(folder: Path) -> None:
    (folder / "dangling").symlink_to(folder / "nothing")
    refused(folder, "dangling", "not listed")
    (folder / "loop").symlink_to(folder / "loop")
    refused(folder, "dangling", "not listed")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["student.safetensors", "family.json", "teacher/config.json"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, name)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_is_refused_and_not_read(device: str, folder: Path) -> None:
    for name in ("family.json", "student.safetensors"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).symlink_to(device)
        refused(folder, name, "outside")
        (folder / name).unlink()
        put(folder / name, kept)


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / "student.safetensors").unlink()
    (folder / "student.safetensors").mkdir()
    refused(folder, "student.safetensors", "is missing")


# ---- the teacher's configs ----


def _nest(value: dict[str, Any], depth: int) -> dict[str, Any]:
    for level in range(depth):
        value = {"a": [value]} if level % 2 else {"b": value}
    return value


@pytest.mark.parametrize("depth", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("marker", ["auto_map", "trust_remote_code", "custom_pipelines"])
def test_a_config_that_names_code_is_refused_at_any_depth(marker: str, name: str, depth: int, folder: Path) -> None:
    change_json(folder / "teacher" / name, lambda raw: raw.update(_nest({marker: {"AutoModel": "evil.Model"}}, depth)))
    list_again(folder)
    refused(folder, f"teacher/{name}", f"{marker}.*never done")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"quantization_config": {}}, "quantized"),
        ({"model_type": "mamba"}, "'mamba' is not supported; supported are gpt2"),
        ({"model_type": "../llama"}, "not supported"),
        ({"model_type": None}, "not supported"),
        ({"model_type": ["llama"]}, "not supported"),
        ({"transformers_weights": "pytorch_model.bin"}, "not checked"),
        ({"configuration_files": ["config.4.0.0.json"]}, "not checked"),
        ({"attn_implementation": "someone/kernel"}, "never done"),
        ({"_attn_implementation": "kernels-community/flash-attn"}, "never done"),
        ({"num_hidden_layers": 10**9}, "layers"),
        ({"num_hidden_layers": 0}, "layers"),
        ({"num_hidden_layers": -1}, "layers"),
        ({"num_hidden_layers": "6"}, None),
        ({"num_attention_heads": 0}, None),
        ({"num_attention_heads": None}, None),
        ({"hidden_size": -32}, None),
        ({"hidden_size": "32"}, None),
        ({"hidden_act": "os.system"}, None),
        ({"rope_parameters": {"rope_type": "nonsense"}}, None),
        ({"rope_scaling": 3}, None),
        ({"vocab_size": None}, None),
        ({"torch_dtype": "nonsense", "dtype": "nonsense"}, None),
    ],
)
def test_a_teachers_config_that_cannot_be_trusted_is_refused(
    change: dict[str, Any], reason: str | None, folder: Path
) -> None:
    change_json(folder / "teacher" / "config.json", lambda raw: raw.update(change))
    list_again(folder)
    refused(folder, "teacher/config.json", reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 64}, "has shape"),
        ({"vocab_size": 10**9}, "has shape"),
        ({"num_hidden_layers": 7}, "is missing"),
        ({"num_hidden_layers": 5}, "belongs to no part"),
        ({"tie_word_embeddings": False}, "lm_head.weight' is missing"),
    ],
)
def test_a_teachers_config_that_its_weights_do_not_fit_is_refused(
    change: dict[str, Any], reason: str, folder: Path
) -> None:
    change_json(folder / "teacher" / "config.json", lambda raw: raw.update(change))
    list_again(folder)
    refused(folder, "teacher", reason)


def test_a_gpt2_whose_layers_depend_on_their_depth_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "family"
    write_tiny_family(folder, architecture="gpt2")
    change_json(folder / "teacher" / "config.json", lambda raw: raw.update(scale_attn_by_inverse_layer_idx=True))
    list_again(folder)
    refused(folder, "teacher/config.json", "scale_attn_by_inverse_layer_idx")
    change_json(
        folder / "teacher" / "config.json",
        lambda raw: raw.update(scale_attn_by_inverse_layer_idx=False, add_cross_attention=True),
    )
    list_again(folder)
    refused(folder, "teacher/config.json", "cross-attention")


def test_an_adapter_beside_the_teacher_is_refused(folder: Path) -> None:
    put(folder / "teacher" / "adapter_config.json", b'{"base_model_name_or_path": "/somewhere/else"}')
    list_again(folder)
    refused(folder, "teacher/adapter_config.json", "adapter")


_NO_JSON = (None, b"", b"[]", b"\xff", b"[" * 100_000)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("tokenizer_config.json", content) for content in _NO_JSON),
        # An empty tokenizer_config.json is no damage: it leaves everything to tokenizer.json.
        *(("tokenizer.json", content) for content in (*_NO_JSON, b"{}", b'{"model": {"type": "Evil"}}')),
    ],
)
def test_a_tokenizer_that_is_missing_or_damaged_is_refused(name: str, content: bytes | None, folder: Path) -> None:
    path = folder / "teacher" / name
    path.unlink()
    if content is not None:
        put(path, content)
    list_again(folder)
    with pytest.raises(ArtifactError) as caught:
        read_family(folder, dtype=torch.float32, device=CPU)
    assert caught.value.path in (path, folder / "teacher")


# ---- what loading does ----

_AUDITED = """
    import json, sys
    from pathlib import Path
    import torch
    from anysize.errors import ArtifactError
    from anysize.family.family import Family

    def load(folder):
        try:
            Family.load(Path(folder), dtype=torch.float32, device=torch.device("cpu"))
        except ArtifactError as error:
            return f"refused: {error}"
        return "loaded"

    # One load before, so that what is imported late is imported.
    intact, *folders = sys.argv[1:]
    load(intact)
    allowed = [*folders, sys.prefix, sys.base_prefix, "/proc/", "/sys/", "/dev/null"]
    allowed += [str(Path(entry).resolve()) for entry in sys.path if entry]
    forbidden = {
        "pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
        "socket.connect", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen",
    }
    seen = []

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[0], str):
            full = str(Path(arguments[0]).absolute())
            plain = full.endswith((".json", ".safetensors", ".jinja", ".md"))
            if not full.startswith(tuple(allowed)) or (full.startswith(tuple(folders)) and not plain):
                seen.append(full)
        elif event in forbidden:
            seen.append(event)

    sys.addaudithook(watch)
    report = {}
    for folder in folders:
        outcome = load(folder)
        report[folder] = [outcome, sorted(set(seen))]
        seen.clear()
    print(json.dumps(report))
"""


def test_loading_opens_nothing_outside_runs_nothing_and_connects_to_nothing(pristine: Path, folder: Path) -> None:
    """Watched from inside another process, by Python's own audit events."""
    hostile = shutil.copytree(folder, folder.parent / "hostile")
    (hostile / "teacher" / "model.safetensors").unlink()
    # GLOBAL os.system, MARK, UNICODE, TUPLE, REDUCE: what a hostile checkpoint holds.
    put(hostile / "teacher" / "pytorch_model.bin", b"cos\nsystem\n(Vexit 1\ntR.")
    put(hostile / "teacher" / "modeling_evil.py", b"raise SystemExit('ran')")
    list_again(hostile)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_AUDITED), str(pristine / "full"), str(folder), str(hostile)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report[str(folder)] == ["loaded", []]
    outcome, seen = report[str(hostile)]
    assert outcome == f"refused: {hostile}/teacher/model.safetensors: is missing"
    # Every listed file is hashed, and that is all that ever happens to these two.
    assert seen == [f"{hostile}/teacher/modeling_evil.py", f"{hostile}/teacher/pytorch_model.bin"]


_DAMAGE = {"student.safetensors": "bytes, family.json says", "family.json": "holds no JSON"}


@pytest.mark.parametrize("name", _DAMAGE)
def test_the_command_line_says_in_one_line_what_is_wrong(name: str, folder: Path) -> None:
    put(folder / name, (folder / name).read_bytes()[:100])
    result = CliRunner().invoke(app, ["variants", "--family", str(folder)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert f"{folder / name}: {'' if name == 'family.json' else 'has 100 '}{_DAMAGE[name]}" in result.stderr


def test_the_installed_command_exits_with_2_and_no_traceback(folder: Path) -> None:
    put(folder / "README.md", b"changed")
    done = subprocess.run(
        [sys.executable, "-m", "anysize", "variants", "--family", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "README.md" in done.stderr
