"""Family folders: what is written is what is read, and a folder appears whole or not at all."""

import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from fakes import (
    ARCHITECTURES,
    CPU,
    Kind,
    save_checkpoint_folder,
    tiny_bank,
    tiny_config,
    tiny_model,
    write_tiny_family,
)
from references import all_variants, some_tokens
from safetensors.torch import load_file, save_file

from anysize.family import artifact
from anysize.family.artifact import amend_family, read_family, write_family
from anysize.family.assembly import assemble
from anysize.family.family import Family
from anysize.family.files import new_folder
from anysize.family.manifest import Manifest, Measurement, read_manifest
from anysize.family.pretrained import load_model

F32 = {"dtype": torch.float32, "device": CPU}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["full", "delta"])
def test_a_family_reads_back_as_it_was_written(architecture: str, kind: Kind, tmp_path: Path) -> None:
    bank = write_tiny_family(tmp_path / "family", architecture=architecture, kind=kind)
    loaded = read_family(tmp_path / "family", **F32)
    tokens = some_tokens()
    for variant in all_variants(3):
        with torch.no_grad():
            ours, theirs = assemble(loaded.bank, variant)(tokens).logits, assemble(bank, variant)(tokens).logits
        assert torch.equal(ours, theirs), variant.id
    assert loaded.tokenizer.decode(loaded.tokenizer("sea").input_ids) == "sea"
    assert loaded.manifest == read_manifest(tmp_path / "family")


def test_a_family_loads_in_the_dtype_that_is_asked_for(family_folder: Path) -> None:
    family = Family.load(family_folder, dtype=torch.bfloat16, device=CPU)
    assert {tensor.dtype for tensor in family.bank.tensors() if tensor.dim() > 1} == {torch.bfloat16}
    assert {parameter.dtype for parameter in family.assemble(family.parse("p2")).parameters()} == {torch.bfloat16}


def test_the_manifest_lists_every_file_and_all_of_them_can_be_read_by_others(family_folder: Path) -> None:
    manifest = read_manifest(family_folder)
    names = {path.relative_to(family_folder).as_posix() for path in family_folder.rglob("*") if path.is_file()}
    assert names == manifest.files.keys() | {"family.json"}
    assert stat.S_IMODE((family_folder / "student.safetensors").stat().st_mode) == 0o644
    assert stat.S_IMODE(family_folder.stat().st_mode) == 0o755


def test_a_delta_student_stores_its_updates_alone(family_folder: Path) -> None:
    stored = (family_folder / "student.safetensors").stat().st_size
    assert stored < (family_folder / "teacher" / "model.safetensors").stat().st_size / 2
    assert not [name for name in load_file(family_folder / "student.safetensors") if "embed" in name or "base" in name]


class _DiskFullError(OSError):
    pass


def _rewrite(folder: Path, *, replace: bool) -> None:
    """Write the family of a folder once more, to the same place."""
    bank = tiny_bank("llama", kind="delta", seed=5)
    teacher = folder.parent / f"{folder.name}-teacher"
    manifest = read_manifest(folder) if folder.exists() else _manifest_of(folder.parent / "other")
    write_family(folder, manifest, bank, teacher_folder=teacher, card="", dtype=torch.float32, replace=replace)


def _manifest_of(folder: Path) -> Manifest:
    write_tiny_family(folder)
    return read_manifest(folder)


@pytest.mark.parametrize("fails", ["save_file", "_link_teacher", "sha256_of"])
def test_a_write_that_fails_midway_leaves_the_old_folder_whole(
    fails: str, family_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _contents(family_folder)
    neighbours = set(family_folder.parent.iterdir())

    def full(*_: object, **__: object) -> None:
        raise _DiskFullError

    with monkeypatch.context() as patch:
        patch.setattr(artifact, fails, full)
        with pytest.raises(_DiskFullError):
            _rewrite(family_folder, replace=True)
    assert _contents(family_folder) == before
    assert set(family_folder.parent.iterdir()) == neighbours
    read_family(family_folder, **F32)


def test_a_first_write_that_fails_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = _manifest_of(tmp_path / "other")
    neighbours = set(tmp_path.iterdir())

    def half(tensors: object, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise _DiskFullError

    monkeypatch.setattr(artifact, "save_file", half)
    with pytest.raises(_DiskFullError):
        write_family(
            tmp_path / "new",
            manifest,
            tiny_bank("llama", kind="delta"),
            teacher_folder=tmp_path / "other-teacher",
            card="",
            dtype=torch.float32,
        )
    assert set(tmp_path.iterdir()) == neighbours


def test_a_process_killed_while_writing_leaves_no_folder_of_the_targets_name(tmp_path: Path) -> None:
    """A kill runs no cleanup: the unfinished folder stays under its temporary name, and writing again works."""
    target = tmp_path / "made"
    child = os.fork()
    if child == 0:
        with new_folder(target) as building:
            (building / "half").write_text("x")
            os._exit(9)  # as abrupt as SIGKILL
    os.waitpid(child, 0)
    assert not target.exists()
    assert [path.name.startswith(".made.") and path.suffix == ".partial" for path in tmp_path.iterdir()] == [True]
    with new_folder(target) as building:
        (building / "whole").write_text("x")
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_folder_that_is_there_is_refused_unless_it_may_be_replaced(family_folder: Path) -> None:
    before = _contents(family_folder)
    with pytest.raises(FileExistsError, match="exists already"):
        _rewrite(family_folder, replace=False)
    assert _contents(family_folder) == before
    _rewrite(family_folder, replace=True)
    assert _contents(family_folder) != before
    read_family(family_folder, **F32)


def test_a_folder_that_came_to_be_while_writing_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "made"
    with pytest.raises(FileExistsError), new_folder(target) as building:  # noqa: PT012  (the exit raises)
        (building / "ours").write_text("slow")
        target.mkdir()
        (target / "theirs").write_text("fast")
    assert [path.name for path in target.iterdir()] == ["theirs"]
    assert list(tmp_path.iterdir()) == [target]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "old").write_text("x")
    real = Path.rename

    def refusing(self: Path, other: Path) -> Path:
        if self.suffix == ".partial":
            raise _DiskFullError
        return real(self, other)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(_DiskFullError), new_folder(target, replace=True) as building:
        (building / "new").write_text("x")
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_amending_changes_manifest_and_card_and_keeps_the_weights(family_folder: Path) -> None:
    weights = (family_folder / "student.safetensors").stat().st_ino
    measured = Measurement(
        variant="student", dataset="tiny", dataset_sha256="0" * 64, perplexity=3.5, kl=None, tokens=10
    )
    changed = read_manifest(family_folder).model_copy(update={"measurements": (measured,), "ladder": ("p3", "teacher")})
    amend_family(family_folder, changed, card="# measured\n")
    family = Family.load(family_folder, **F32)
    assert family.manifest is not None
    assert family.manifest.measurements == (measured,)
    assert [size.id for size in family.ladder] == ["p3", "teacher"]
    assert (family_folder / "README.md").read_text() == "# measured\n"
    assert (family_folder / "student.safetensors").stat().st_ino == weights


def test_a_family_of_sharded_teacher_weights_loads(tmp_path: Path) -> None:
    """An index and its shards are one checkpoint: the fingerprint is that of the tensors, not of the files."""
    folder = tmp_path / "family"
    bank = write_tiny_family(folder)
    before = read_manifest(folder)
    shutil.rmtree(tmp_path / "family-teacher")
    bank.teacher.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    save_tokenizer = save_checkpoint_folder(bank.teacher, tmp_path / "plain")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(save_tokenizer / name, tmp_path / "sharded" / name)
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    write_family(
        folder,
        before,
        bank,
        teacher_folder=tmp_path / "sharded",
        card="",
        dtype=torch.float32,
        replace=True,
    )
    read_family(folder, **F32)


def test_pythias_head_under_its_own_name_and_masks_of_older_releases_load(tmp_path: Path) -> None:
    model = tiny_model(tiny_config("gpt_neox", 2, tied=False), 0)
    folder = save_checkpoint_folder(model, tmp_path / "pythia")
    tensors = load_file(folder / "model.safetensors")
    assert "embed_out.weight" in tensors
    tensors["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    tensors["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded, tokens = load_model(folder, **F32), some_tokens()
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def test_gpt2_as_it_was_first_published_loads(tmp_path: Path) -> None:
    """`openai-community/gpt2` was saved without its head: names lack `transformer.`, and there are masks."""
    model = tiny_model(tiny_config("gpt2", 2), 0)
    folder = save_checkpoint_folder(model, tmp_path / "gpt2")
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loaded, tokens = load_model(folder, **F32), some_tokens()
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
