"""Exported sizes: ordinary checkpoints that transformers loads in another process, with equal logits."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import CPU, Kind, byte_tokenizer, tiny_bank
from references import all_variants, some_tokens
from safetensors.torch import load_file, save_file

from anysize.family import export
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.export import export_variant
from anysize.family.pretrained import load_model, load_tokenizer
from anysize.family.variant import Variant

_OTHER_PROCESS = """
    import json, sys
    from pathlib import Path
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens, report, logits = load_file("tokens.safetensors")["tokens"], {}, {}
    for folder in sorted(path for path in Path().iterdir() if path.is_dir()):
        model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        with torch.no_grad():
            logits[folder.name] = model(tokens).logits
        tokenizer = AutoTokenizer.from_pretrained(folder)
        report[folder.name] = {
            "missing": sorted(info["missing_keys"]),
            "unexpected": sorted(info["unexpected_keys"]),
            "layers": model.config.num_hidden_layers,
            "tied": model.config.tie_word_embeddings,
            "shares": model.get_input_embeddings().weight.data_ptr() == model.lm_head.weight.data_ptr(),
            "architectures": model.config.architectures,
            "text": tokenizer.decode(tokenizer("sea").input_ids),
            "chat": tokenizer.apply_chat_template([{"role": "user", "content": "sea"}], tokenize=False),
        }
    save_file(logits, "logits.safetensors")
    print(json.dumps(report))
"""

_PAIRS: list[tuple[str, Kind, bool]] = [
    (architecture, kind, tied)
    for architecture, tied in (("llama", True), ("gpt2", True), ("qwen2", False), ("gpt_neox", False))
    for kind in ("full", "delta")
]
_SIZES = ("student", "p1", "p2", "p2-3", "teacher")


@pytest.fixture(scope="module")
def banks() -> dict[str, Bank]:
    return {f"{name}-{kind}": tiny_bank(name, kind=kind, tied=tied) for name, kind, tied in _PAIRS}


@pytest.fixture(scope="module")
def elsewhere(
    banks: dict[str, Bank], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, dict[str, Any]], dict[str, torch.Tensor]]:
    """What another process finds in exported folders: a report and logits by folder."""
    root = tmp_path_factory.mktemp("exported")
    for name, bank in banks.items():
        for size in _SIZES:
            export_variant(bank, byte_tokenizer(), Variant.parse(size, 3), root / f"{name}-{size}", card="# card\n")
    save_file({"tokens": some_tokens()}, root / "tokens.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_OTHER_PROCESS)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), load_file(root / "logits.safetensors")


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize(("architecture", "kind", "tied"), _PAIRS)
def test_another_process_loads_the_same_model(
    architecture: str,
    kind: Kind,
    tied: bool,
    size: str,
    banks: dict[str, Bank],
    elsewhere: tuple[dict[str, dict[str, Any]], dict[str, torch.Tensor]],
) -> None:
    bank, variant = banks[f"{architecture}-{kind}"], Variant.parse(size, 3)
    name = f"{architecture}-{kind}-{size}"
    report, logits = elsewhere[0][name], elsewhere[1][name]
    with torch.no_grad():
        ours = assemble(bank, variant)(some_tokens()).logits
    if kind == "full":
        assert torch.equal(logits, ours)
    else:
        # Merging an update rounds once where running it rounds twice.
        torch.testing.assert_close(logits, ours, rtol=1e-5, atol=1e-5 * ours.abs().max().item())
    assert report["missing"] == report["unexpected"] == []
    assert report["layers"] == variant.depth(bank.blocks)
    assert report["tied"] == report["shares"] == (tied and variant.choice[0] == variant.choice[-1])
    assert report["architectures"] == [type(bank.teacher).__name__]
    assert (report["text"], report["chat"]) == ("sea", "<|im_start|>user\nsea<|im_end|>\n")


def test_large_weights_are_split_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, variant = tiny_bank("llama", kind="full"), Variant.of(3, [2])
    monkeypatch.setattr(export, "_MAX_SHARD", "40KB")
    folder = export_variant(bank, byte_tokenizer(), variant, tmp_path / "out", card="")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 2
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    tokens = some_tokens()
    with torch.no_grad():
        ours = assemble(bank, variant)(tokens).logits
        assert torch.equal(load_model(folder, dtype=torch.float32, device=CPU)(tokens).logits, ours)


def test_our_own_reader_loads_every_exported_size(tmp_path: Path) -> None:
    bank, tokens = tiny_bank("gpt_neox", kind="full", tied=False), some_tokens()
    for variant in all_variants(3):
        folder = export_variant(bank, byte_tokenizer(), variant, tmp_path / variant.id, card="")
        with torch.no_grad():
            ours = assemble(bank, variant)(tokens).logits
            assert torch.equal(load_model(folder, dtype=torch.float32, device=CPU)(tokens).logits, ours)
        assert load_tokenizer(folder)("sea").input_ids == byte_tokenizer()("sea").input_ids


def test_a_pythia_head_is_stored_under_the_name_that_other_tools_expect(tmp_path: Path) -> None:
    bank = tiny_bank("gpt_neox", kind="full", tied=False)
    folder = export_variant(bank, byte_tokenizer(), Variant.student(3), tmp_path / "out", card="")
    bank.student.save_pretrained(tmp_path / "reference")
    ours, theirs = load_file(folder / "model.safetensors"), load_file(tmp_path / "reference" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert "embed_out.weight" in ours


def test_exporting_leaves_the_bank_as_it_was(tmp_path: Path) -> None:
    bank, tokens = tiny_bank("qwen2", kind="delta"), some_tokens()
    before = [tensor.clone() for tensor in bank.tensors()]
    configs = (bank.teacher.config.to_dict(), bank.student.config.to_dict())
    with torch.no_grad():
        logits = bank.student(tokens).logits
    export_variant(bank, byte_tokenizer(), Variant.of(3, [1]), tmp_path / "out", card="")
    assert all(torch.equal(old, new) for old, new in zip(before, bank.tensors(), strict=True))
    assert (bank.teacher.config.to_dict(), bank.student.config.to_dict()) == configs
    with torch.no_grad():
        assert torch.equal(bank.student(tokens).logits, logits)


def test_a_target_that_exists_is_refused_and_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "precious").write_text("x")
    with pytest.raises(FileExistsError, match="exists already"):
        export_variant(tiny_bank("llama"), byte_tokenizer(), Variant.student(3), target, card="")
    assert [path.name for path in target.iterdir()] == ["precious"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        export_variant(tiny_bank("llama"), byte_tokenizer(), Variant.student(3), tmp_path / "out", card="")
    assert list(tmp_path.iterdir()) == []
