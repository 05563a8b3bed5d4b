"""The report: what is said of a claim follows from the figures, and the page needs nothing beside it."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fakes import write_tiny_family
from typer.testing import CliRunner

from anysize.errors import SettingsError
from anysize_training.cli import app
from anysize_training.study.report import of_family, of_sweeps
from anysize_training.study.report.experiments import FAMILY_EXPERIMENTS, SWEEP_EXPERIMENTS, Experiment, Subject
from anysize_training.study.report.page import Section, markdown, page
from anysize_training.study.report.texts import Texts
from anysize_training.study.report.verdict import Verdict
from anysize_training.study.sweep.sweep import load_sweep, shipped_sweeps

SIZES = [
    {"variant": name, "layers": layers, "fraction": layers / 6, "perplexity": perplexity, "kl": 0.1}
    for name, layers, perplexity in (("student", 3, 90.0), ("p3", 4, 60.0), ("p2-3", 5, 40.0), ("teacher", 6, 30.0))
]


def arm(label: str, *perplexities: float, only_student: bool = False, layers: int = 3) -> dict[str, Any]:
    sizes = [
        {
            "variant": f"v{number}",
            "layers": layers + number,
            "perplexity": {"mean": value, "deviation": 1.0},
            "kl": {"mean": 0.1, "deviation": None},
        }
        for number, value in enumerate(perplexities)
    ]
    return {"label": label, "only_student": only_student, "changes": {}, "sizes": sizes}


def test_a_size_that_is_worse_than_a_smaller_one_breaks_interpolation():
    report = {"sizes": copy.deepcopy(SIZES), "untrained_student_perplexity": 900.0}
    assert of_family.interpolation(report).status == "reproduced"
    assert "900.00" in of_family.interpolation(report).finding
    report["sizes"][2]["perplexity"] = 60.5
    assert of_family.interpolation(report).status == "reproduced", "0.8 % is noise"
    report["sizes"][2]["perplexity"] = 70.0
    assert of_family.interpolation(report).status == "not reproduced"
    report["sizes"][2]["perplexity"] = 29.0
    assert of_family.interpolation(report).status == "not reproduced", "better than the teacher is not between"


def test_one_better_baseline_is_enough_and_is_named():
    def row(method: str, layers: int | None, perplexity: float | None, asked: int) -> dict[str, Any]:
        return {"method": method, "layers": layers, "asked_layers": asked, "perplexity": perplexity}

    ours = [row("family", size["layers"], size["perplexity"], size["layers"]) for size in SIZES]
    report = {"rows": [*ours, row("naive", 4, 1e6, 4), row("naive", 5, 500.0, 5), row("laco", None, None, 4)]}
    assert of_family.against_baselines(report).status == "reproduced"
    report["rows"].append(row("laco", 5, 39.0, 5))
    verdict = of_family.against_baselines(report)
    assert verdict.status == "not reproduced"
    assert "laco at 5 layers" in verdict.finding


def test_the_last_layer_may_not_fall():
    rows = [{"variant": f"v{n}", "patched": n, "nested": True, "cosine": 0.9 + n / 100} for n in range(4)]
    assert of_family.last_layer({"rows": rows}).status == "reproduced"
    rows[2]["cosine"] = 0.8
    assert of_family.last_layer({"rows": rows}).status == "not reproduced"
    rows[2]["nested"] = False
    assert of_family.last_layer({"rows": rows}).status == "reproduced", "only the patch order counts"


@pytest.mark.parametrize(
    ("judge", "good", "bad"),
    [
        (
            of_sweeps.loss_ablation,
            {"all": arm("all", 9, 5, 3), "ce": arm("ce", 9, 6, 3)},
            {"all": arm("all", 9, 6, 3), "ce": arm("ce", 9, 5, 3)},
        ),
        (
            of_sweeps.random_initialisation,
            {"all": arm("all", 9, 5, 3), "random": arm("random", 20, 30, 3)},
            {"all": arm("all", 9, 5, 3), "random": arm("random", 20, 15, 3)},
        ),
        (
            of_sweeps.student_size,
            {"all": arm("all", 9, 5, 3), "third": arm("third", 9, 5, 3), "fourth": arm("fourth", 9, 9.5, 3)},
            {"all": arm("all", 9, 5, 3), "third": arm("third", 9, 5, 3), "fourth": arm("fourth", 9, 9.1, 3)},
        ),
        (
            of_sweeps.token_budget,
            {"few": arm("few", 9, 7, 3), "many": arm("many", 9, 5, 3)},
            {"few": arm("few", 9, 5, 3), "many": arm("many", 9, 7, 3)},
        ),
        (
            of_sweeps.standard_distillation,
            {"all": arm("all", 9, 5, 4, 3), "own": arm("own", 5.5, only_student=True, layers=5)},
            {"all": arm("all", 9, 5, 4, 3), "own": arm("own", 3.5, only_student=True, layers=5)},
        ),
    ],
)
def test_sweeps_are_judged_by_their_means(judge: Any, good: dict[str, Any], bad: dict[str, Any]):
    assert judge({"arms": good}).status == "reproduced"
    assert judge({"arms": bad}).status == "not reproduced"
    assert judge({"arms": good}).rows


def test_the_best_start_and_the_best_end_are_told_apart():
    arms = {
        "all": arm("kept", 20, 8, 7, 3),
        "merged": arm("merged", 30, 6, 5, 3),
        "all-start": arm("kept, untrained", 100, 60, 30, 3),
        "merged-start": arm("merged, untrained", 900, 700, 500, 3),
    }
    verdict = of_sweeps.initialisations({"arms": arms})
    assert verdict.status == "finding"
    assert "begins best as kept (100.00) and ends best as kept (20.00)" in verdict.finding
    assert "with kept (45.00) before training and with merged (5.50) behind it" in verdict.finding
    assert [row[0] for row in verdict.rows] == ["kept", "merged"]


def subject(folder: Path) -> Subject:
    return Subject(
        family=str(folder / "family"),
        teacher=str(folder / "family" / "teacher"),
        texts=Texts(folder / "text.txt", 0, folder / "held.txt", wikitext=False),
        sweeps=folder / "sweeps",
        quick=True,
    )


def test_every_sweep_that_ships_has_its_place_in_the_report(tmp_path: Path):
    assert {experiment.id for experiment in SWEEP_EXPERIMENTS} == set(shipped_sweeps())
    for experiment in SWEEP_EXPERIMENTS:
        assert load_sweep(experiment.id).name == experiment.id
        assert experiment.words(subject(tmp_path))[:2] == ["sweep", experiment.id]


def test_the_page_needs_nothing_beside_it(tmp_path: Path):
    picture = tmp_path / "flops.svg"
    picture.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    experiments = [*FAMILY_EXPERIMENTS, *SWEEP_EXPERIMENTS]
    verdict = Verdict("not reproduced", "it is <b>not</b> so", ["a", "b"], [["1", "2"], ["3", "4"]])
    sections = [
        Section(one, verdict, " ".join(one.words(subject(tmp_path))), picture if one.id == "flops" else None)
        for one in experiments
    ]
    text = markdown("A title", ["An introduction."], sections)
    assert "![What training costs](flops.svg)" in text
    written = page("A title", text, sections)
    assert "data:image/svg+xml;base64," in written
    assert "<b>not</b>" not in written, "what is found is text"
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', written)
    targets = set(re.findall(r'href="#([^"]+)"', written))
    assert targets == set(re.findall(r'id="([^"]+)"', written))
    assert len(targets) == len(experiments)
    assert written.count("<table") == written.count("</table>") == 1 + len(experiments)
    assert written.count("<details>") == written.count("</details>") == len(experiments)


def test_texts_that_are_not_named_are_looked_for_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    failed = CliRunner().invoke(app, ["report", "smollm2-135m", "--quick"])
    assert failed.exit_code == 2
    said = " ".join(failed.output.split())
    for word in ("--text", "wikipedia_vital_en.jsonl", "--evaluate-text", "wikitext2_test.txt", "training/README.md"):
        assert word in said
    assert not [*tmp_path.iterdir()]
    with pytest.raises(SettingsError, match=r"--evaluate-text FILE is not given, and wikitext2_test\.txt"):
        Texts.named(Path("own.txt"), None, None, wikitext=False)
    for name in ("wikipedia_vital_en.jsonl", "wikitext2_test.txt"):
        (tmp_path / name).write_text("{}")
    usual = Texts.named(None, None, None, wikitext=False)
    assert usual == Texts(Path("wikipedia_vital_en.jsonl"), 7500, Path("wikitext2_test.txt"), wikitext=True)
    own = Texts.named(Path("a.jsonl"), None, Path("b.txt"), wikitext=False)
    assert own == Texts(Path("a.jsonl"), 0, Path("b.txt"), wikitext=False)


def test_what_a_sweep_said_stays_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anysize_training.commands.report.FAMILY_EXPERIMENTS", ())
    write_tiny_family(tmp_path / "family")
    (tmp_path / "text.txt").write_text("Blue.")
    (tmp_path / "sweeps").mkdir()
    sweep = {"command": "anysize-train sweep token-budget", "shows": "Tokens", "dataset": "text.txt", "seeds": [0, 1]}
    sweep |= {"arms": {"few": arm("few", 9, 7, 3), "many": arm("many", 9, 5, 3)}}
    (tmp_path / "sweeps" / "token-budget.json").write_text(json.dumps(sweep))
    words = ["report", str(tmp_path / "family"), "--out", str(tmp_path / "out"), "--json"]
    words += ["--text", str(tmp_path / "text.txt"), "--evaluate-text", str(tmp_path / "text.txt")]
    found = [
        json.loads(CliRunner().invoke(app, [*words, *more]).stdout)["experiments"]
        for more in (["--sweeps", str(tmp_path / "sweeps")], [])
    ]
    assert found[0] == found[1]
    assert [one["id"] for one in found[1] if one["status"] != "not run"] == ["token-budget"]
    assert "few 7.00, many 5.00" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("experiment", [*FAMILY_EXPERIMENTS, *SWEEP_EXPERIMENTS], ids=lambda one: one.id)
def test_the_committed_report_says_what_its_data_say(experiment: Experiment):
    folder = Path(__file__).parents[3] / "training/reports/smollm2-135m"
    kept = json.loads((folder / "data" / f"{experiment.id}.json").read_text())
    verdict = experiment.judge(kept.get("report", kept))
    section = (folder / "report.md").read_text().split(f"\n## {experiment.title}\n")[1].split("\n## ")[0]
    assert f"{verdict.status.capitalize()}**: {verdict.finding}" in section
    assert all(f"| {' | '.join(row)} |" in section for row in verdict.rows)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_report_of_a_tiny_family_and_again(tmp_path: Path):
    write_tiny_family(tmp_path / "family", teacher_layers=8, kept=(0, 2, 4, 6))
    for name in ("text.txt", "held.txt"):
        sentences = [f"The {name} sea of number {number} is deep and blue." for number in range(400)]
        (tmp_path / name).write_text("\n\n".join(sentences))
    words = ["report", str(tmp_path / "family"), "--text", str(tmp_path / "text.txt"), "--quick", "--json"]
    words += ["--evaluate-text", str(tmp_path / "held.txt"), "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)["experiments"]
    assert [one["status"] for one in found].count("not run") == len(shipped_sweeps())
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").iterdir()}
    assert len(times) == 7
    second = CliRunner().invoke(app, words)
    assert json.loads(second.stdout)["experiments"] == found
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "data").iterdir()} == times
    with (tmp_path / "held.txt").open("a") as file:
        file.write("\n\nIt has changed.")
    assert CliRunner().invoke(app, words).exit_code == 0
    new = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert len(new) == 7, "another text is another experiment, under the same name too"
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
