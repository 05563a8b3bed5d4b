"""The experiments of a report: the command of each, and who reads what it prints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anysize_training.study.report import of_family, of_sweeps
from anysize_training.study.report.verdict import Report, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One of them.

    Attributes:
        id: names its files.
        title: for people.
        paper: where the claim stands.
        claim: what the paper says, or what is asked beyond it.
        words: of the command, after `anysize-train`.
        judge: reads the command's JSON.
        has_picture: whether the command takes `--plot`.
        needs: what it cannot be run without; None where it can.
    """

    id: str
    title: str
    paper: str
    claim: str
    words: Sequence[str]
    judge: Callable[[Report], Verdict]
    has_picture: bool = True
    needs: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a report is about, and how much of it.

    Attributes:
        family: its folder, or `builtin`.
        teacher: as `baseline` names it.
        text: to calibrate on, and its first row.
        evaluation: to score on.
        wikitext: whether that is WikiText, word-tokenised.
        quick: score and calibrate on less.
    """

    family: str
    teacher: str
    text: Path
    first_row: int
    evaluation: Path
    wikitext: bool
    quick: bool

    @property
    def tokens(self) -> int:
        """How many are scored."""
        return 1024 if self.quick else 8192


def family_experiments(subject: Subject) -> list[Experiment]:
    """Those that need no further training."""
    tokens, calibrated = str(subject.tokens), str(512 if subject.quick else 2048)
    scored = ["--evaluate-text", str(subject.evaluation), *(["--wikitext"] if subject.wikitext else [])]
    text = ["--text", str(subject.text), "--first-row", str(subject.first_row)]

    def analyse(what: str) -> list[str]:
        return ["analyse", subject.family, "--what", what, *text, "--tokens", calibrated]

    return [
        Experiment(
            id="interpolation",
            title="Sizes between student and teacher",
            paper="Figures 2, 3, 28",
            claim="Patching gives sizes whose quality lies between student and teacher and grows with their size.",
            words=[
                "evaluate",
                subject.family,
                *[word.replace("--evaluate-text", "--text") for word in scored],
                "--max-tokens",
                str(max(4096, subject.tokens)),
                "--untrained",
            ],
            judge=of_family.interpolation,
            has_picture=False,
        ),
        Experiment(
            id="baselines",
            title="Pruned and merged teachers",
            paper="Figures 2, 7, 30; Table 4",
            claim="Naive pruning, ShortGPT and LaCo fall behind the family at every size between.",
            words=[
                "baseline",
                subject.teacher,
                "--compare",
                *([] if subject.quick else ["--grid"]),
                "--against",
                subject.family,
                *text,
                "--tokens",
                calibrated,
                *scored,
                "--evaluate-tokens",
                tokens,
            ],
            judge=of_family.against_baselines,
        ),
        Experiment(
            id="teacher-layers",
            title="How alike the teacher's layers are",
            paper="Appendix E.2",
            claim="Neighbouring layers say nearly the same.",
            words=analyse("teacher_layers"),
            judge=of_family.teacher_layers,
        ),
        Experiment(
            id="student-layers",
            title="Student layers and their blocks",
            paper="Figures 23, 25, 26",
            claim="A student layer's output is like that of its block's end.",
            words=analyse("student_layers"),
            judge=of_family.student_layers,
        ),
        Experiment(
            id="last-layer",
            title="The last layer, as positions are patched",
            paper="Figure 27",
            claim="The more positions are patched, the more alike the last layer's outputs are to the teacher's.",
            words=analyse("last_layer"),
            judge=of_family.last_layer,
        ),
        Experiment(
            id="flops",
            title="What training costs",
            paper="Table 3",
            claim="One distillation costs 14.53 to 19.17 times less than one for each size between.",
            words=["analyse", subject.family, "--what", "flops"],
            judge=of_family.flops,
        ),
        Experiment(
            id="orders",
            title="Patch orders",
            paper="limitations: a better patching order",
            claim="Open in the paper: does an order found by measurement beat the sequential ones?",
            words=[
                "order",
                subject.family,
                *text,
                "--tokens",
                "512",
                "--compare",
                *scored,
                "--evaluate-tokens",
                str(min(4096, subject.tokens)),
            ],
            judge=of_family.orders,
        ),
    ]


def sweep_experiments(subject: Subject, sweeps: Path) -> list[Experiment]:
    """Those that train: they are run by `anysize-train sweep`, and read from its folder."""
    scored = ["--text", str(subject.evaluation), *(["--wikitext"] if subject.wikitext else [])]
    claims = {
        "loss-ablation": ("The objective", "Figure 5", "All terms together give the lowest perplexity."),
        "random-initialisation": (
            "A student from chance",
            "Figure 2",
            "Without teacher layers to start from, patching gives nothing.",
        ),
        "student-size": (
            "The student's size",
            "Figure 8",
            "Students of every 2nd and 3rd layer interpolate, smaller ones do not.",
        ),
        "token-budget": ("Tokens", "Figure 10", "More tokens give better sizes."),
        "initialisation-and-order": (
            "Kept layers and patch order",
            "Figure 24",
            "For Llama: keep the first two, patch from the first.",
        ),
        "standard-distillation": (
            "A distillation for each size",
            "Figure 4",
            "Patched sizes match those distilled for themselves.",
        ),
        "delta-against-full": (
            "Students without weights of their own",
            "Section 3.3, open",
            "Open in the paper: is there a stable student that does not keep weights beside the teacher's?",
        ),
    }
    judges = {
        "loss-ablation": of_sweeps.loss_ablation,
        "random-initialisation": of_sweeps.random_initialisation,
        "student-size": of_sweeps.student_size,
        "token-budget": of_sweeps.token_budget,
        "initialisation-and-order": of_sweeps.initialisation_and_order,
        "standard-distillation": of_sweeps.standard_distillation,
        "delta-against-full": of_sweeps.delta_against_full,
    }
    return [
        Experiment(
            id=name,
            title=title,
            paper=paper,
            claim=claim,
            words=["sweep", name, "--out", str(sweeps), *scored],
            judge=judges[name],
            needs="runs of a small teacher, minutes each",
        )
        for name, (title, paper, claim) in claims.items()
    ]
