"""Image classifiers patched with their teacher's layers, on tiny ViTs and images that the tests paint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from typer.testing import CliRunner

from anysize.errors import ArtifactError, SettingsError
from anysize.family.variant import Variant
from anysize_training.cli import app
from anysize_training.study.offtheshelf.images import LabelledImages, read_images
from anysize_training.study.offtheshelf.load import load_vision_pair
from anysize_training.study.offtheshelf.vision import VisionPair, image_quality

KEPT = [0, 2, 4]
LABELS = {0: "cat", 1: "dog", 2: "sea"}


def save_vit(folder: Path, layers: int, seed: int, **changes: object) -> ViTForImageClassification:
    torch.manual_seed(seed)
    options = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 16, "patch_size": 8}
    config = ViTConfig(**options, num_hidden_layers=layers, id2label=LABELS, **changes)  # pyright: ignore[reportArgumentType]
    model = ViTForImageClassification(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of 6 layers, a student of 3, and 4 images of each of 3 classes."""
    folder = tmp_path_factory.mktemp("vision")
    save_vit(folder / "teacher", 6, seed=1)
    save_vit(folder / "student", 3, seed=2)
    chance = torch.Generator().manual_seed(3)
    for label in LABELS.values():
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(4):
            dots = torch.randint(0, 256, (20, 24, 3), generator=chance, dtype=torch.uint8)
            Image.fromarray(dots.numpy()).save(folder / "photos" / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> VisionPair:
    return load(folder)


@pytest.fixture(scope="module")
def images(folder: Path, pair: VisionPair) -> LabelledImages:
    return read_images(folder / "photos", pair.processor, pair.classes, most=100)


def load(folder: Path, student: str = "student") -> VisionPair:
    names = (str(folder / "teacher"), str(folder / student))
    return load_vision_pair(*names, KEPT, device=torch.device("cpu"), say=lambda _line: None)


@pytest.mark.parametrize(("which", "choice"), [("student", (False,) * 3), ("teacher", (True,) * 3)])
def test_the_ends_are_the_two_models_to_the_bit(
    folder: Path, pair: VisionPair, images: LabelledImages, which: str, choice: tuple[bool, ...]
):
    model = ViTForImageClassification.from_pretrained(folder / which)
    with torch.inference_mode():
        expected_NC = model(images.pixels_NCHW).logits
    assert torch.equal(pair.logits(Variant(choice), images, batch=12), expected_NC)


def test_a_size_between_is_the_stack_that_it_says(pair: VisionPair, images: LabelledImages):
    ours, theirs = pair.student.vit, pair.teacher.vit
    layers = [ours.layers[0], theirs.layers[2], theirs.layers[3], ours.layers[2]]
    with torch.inference_mode():
        hidden_NLD = ours.embeddings(images.pixels_NCHW)
        for layer in layers:
            hidden_NLD = layer(hidden_NLD)
        expected_NC = pair.student.classifier(ours.layernorm(hidden_NLD)[:, 0])
    found_NC = pair.logits(Variant((False, True, False)), images, batch=5)
    torch.testing.assert_close(found_NC, expected_NC)


def test_a_pruned_teacher_is_made_of_its_kept_layers(pair: VisionPair):
    pruned = pair.pruned().assemble(Variant((False,) * 3))
    assert isinstance(pruned.vit.layers, nn.ModuleList)
    assert [*pruned.vit.layers] == [pair.teacher.vit.layers[kept] for kept in KEPT]
    assert pruned.classifier is pair.teacher.classifier


def test_what_is_counted():
    logits_NC = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 3, 0], [0, 0, 3]])
    teacher_NC = torch.tensor([[3.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 3, 0]])
    found = image_quality(logits_NC, teacher_NC, torch.tensor([0, 1, 2, 0]))
    assert (found.accuracy, found.agreement) == (0.5, 0.5)
    right, wrong = (-F.log_softmax(torch.tensor([3.0, 0, 0]).double(), -1)[:2]).tolist()
    assert found.cross_entropy == pytest.approx((right + wrong) / 2)


def test_images_are_prepared_as_the_checkpoint_says(folder: Path, images: LabelledImages):
    with Image.open(folder / "photos" / "cat" / "0.png") as image:
        dots_HWC = torch.tensor(np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)))
    torch.testing.assert_close(images.pixels_NCHW[0], (dots_HWC / 255 - 0.5).permute(2, 0, 1) / 0.5)
    assert images.labels_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_of_each_class_the_same_number_is_read(folder: Path, pair: VisionPair):
    few = read_images(folder / "photos", pair.processor, pair.classes, most=6)
    assert few.labels_N.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("bird/0.png", b"", "named like no label"),
        ("cat/0.png", b"no image", "cannot be read"),
        ("readme", b"", "has no"),
    ],
)
def test_folders_that_are_wrong(tmp_path: Path, pair: VisionPair, path: str, content: bytes, message: str):
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=message):
        read_images(tmp_path, pair.processor, pair.classes, most=6)


def test_what_is_no_pair_is_refused(folder: Path):
    save_vit(folder / "other", 3, seed=4, num_channels=1)
    with pytest.raises(ArtifactError, match="num_channels"):
        load(folder, "other")
    (folder / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ArtifactError, match="is of no ViT"):
        load(folder, "other")


def test_the_command_measures_every_size(folder: Path):
    words = [
        "patch-images",
        str(folder / "teacher"),
        str(folder / "student"),
        str(folder / "photos"),
        "--kept",
        "0,2,4",
    ]
    done = CliRunner().invoke(app, [*words, "--pruned", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [row["layers"] for row in report["patched"]] == [3, 4, 5, 6]
    assert report["patched"][-1] == report["pruned"][-1]
    assert report["patched"][-1]["agreement"] == 1.0
    assert report["images"] == 12
    assert "as teacher" in CliRunner().invoke(app, words).stdout
