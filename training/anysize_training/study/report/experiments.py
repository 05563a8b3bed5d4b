"""The experiments of a report: the command of each, and who reads what it prints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anysize_training.study.report import of_family, of_sweeps
from anysize_training.study.report.texts import Texts
from anysize_training.study.report.verdict import Report, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a report is about, and how much of it.

    Attributes:
        family: its folder, or `builtin`.
        teacher: as `baseline` names it.
        texts: to calibrate and to score on.
        sweeps: the folder that sweeps are read from.
        quick: score and calibrate on less.
    """

    family: str
    teacher: str
    texts: Texts
    sweeps: Path
    quick: bool

    @property
    def tokens(self) -> int:
        """How many are scored, where a command says no other number."""
        return 1024 if self.quick else 4096

    def calibrating(self, tokens: int | None = None) -> list[str]:
        """Options of a command that measures on the calibration text; `tokens` instead of the usual number."""
        usual = 512 if self.quick else 2048
        text, first_row = str(self.texts.calibration), str(self.texts.first_row)
        return ["--text", text, "--first-row", first_row, "--tokens", str(tokens or usual)]

    def scoring(self, name: str = "--evaluate-text") -> list[str]:
        """Options of a command that scores, and how it names the text."""
        return [name, str(self.texts.evaluation), *(["--wikitext"] if self.texts.wikitext else [])]


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
    """

    id: str
    title: str
    paper: str
    claim: str
    words: Callable[[Subject], list[str]]
    judge: Callable[[Report], Verdict]
    has_picture: bool = True


def _sweep(id_: str, title: str, paper: str, claim: str, judge: Callable[[Report], Verdict]) -> Experiment:
    def words(subject: Subject) -> list[str]:
        return ["sweep", id_, "--out", str(subject.sweeps), *subject.scoring("--text")]

    return Experiment(id=id_, title=title, paper=paper, claim=claim, words=words, judge=judge)


FAMILY_EXPERIMENTS = (
    Experiment(
        id="interpolation",
        title="Sizes between student and teacher",
        paper="Figures 2, 3, 28",
        claim="Patching gives sizes whose quality lies between student and teacher and grows with their size.",
        words=lambda subject: [
            *("evaluate", subject.family, *subject.scoring("--text"), "--untrained"),
            *("--max-tokens", "4096"),  # on fewer, neighbouring sizes change places by chance
        ],
        judge=of_family.interpolation,
        has_picture=False,
    ),
    Experiment(
        id="baselines",
        title="Pruned and merged teachers",
        paper="Figures 2, 7, 30; Table 4",
        claim="Naive pruning, ShortGPT and LaCo fall behind the family at every size between.",
        words=lambda subject: [
            *("baseline", subject.teacher, "--against", subject.family, "--compare"),
            *([] if subject.quick else ["--grid"]),
            # LaCo's grid measures some four hundred models on the calibration text.
            *(*subject.calibrating(512), *subject.scoring(), "--evaluate-tokens", str(subject.tokens)),
        ],
        judge=of_family.against_baselines,
    ),
    Experiment(
        id="teacher-layers",
        title="How alike the teacher's layers are",
        paper="Appendix E.2",
        claim="Neighbouring layers say nearly the same.",
        words=lambda subject: ["analyse", subject.family, "--what", "teacher_layers", *subject.calibrating()],
        judge=of_family.teacher_layers,
    ),
    Experiment(
        id="student-layers",
        title="Student layers and their blocks",
        paper="Figures 23, 25, 26",
        claim="A student layer's output is like that of its block's end.",
        words=lambda subject: ["analyse", subject.family, "--what", "student_layers", *subject.calibrating()],
        judge=of_family.student_layers,
    ),
    Experiment(
        id="last-layer",
        title="The last layer, as positions are patched",
        paper="Figure 27",
        claim="The more positions are patched, the more alike the last layer's outputs are to the teacher's.",
        words=lambda subject: ["analyse", subject.family, "--what", "last_layer", *subject.calibrating()],
        judge=of_family.last_layer,
    ),
    Experiment(
        id="flops",
        title="What training costs",
        paper="Table 3",
        claim="One distillation costs 14.53 to 19.17 times less than one for each size between.",
        words=lambda subject: ["analyse", subject.family, "--what", "flops"],
        judge=of_family.flops,
    ),
    Experiment(
        id="orders",
        title="Patch orders",
        paper="limitations: a better patching order",
        claim="Open in the paper: does an order found by measurement beat the sequential ones?",
        words=lambda subject: [
            *("order", subject.family, "--compare", *subject.calibrating(512), *subject.scoring()),
            *("--evaluate-tokens", str(subject.tokens)),
        ],
        judge=of_family.orders,
    ),
)

SWEEP_EXPERIMENTS = (
    _sweep(
        "loss-ablation",
        "The objective",
        "Figure 5",
        "All terms together give the lowest perplexity.",
        of_sweeps.loss_ablation,
    ),
    _sweep(
        "random-initialisation",
        "A student from chance",
        "Figure 2",
        "Without teacher layers to start from, patching gives nothing.",
        of_sweeps.random_initialisation,
    ),
    _sweep(
        "student-size",
        "The student's size",
        "Figure 8",
        "Students of every 2nd and 3rd layer interpolate, smaller ones do not.",
        of_sweeps.student_size,
    ),
    _sweep("token-budget", "Tokens", "Figure 10", "More tokens give better sizes.", of_sweeps.token_budget),
    _sweep(
        "initialisation-and-order",
        "Kept layers and patch order",
        "Figure 24",
        "For Llama: keep the first two, patch from the first.",
        of_sweeps.initialisation_and_order,
    ),
    _sweep(
        "standard-distillation",
        "A distillation for each size",
        "Figure 4",
        "Patched sizes match those distilled for themselves.",
        of_sweeps.standard_distillation,
    ),
    _sweep(
        "delta-against-full",
        "Students without weights of their own",
        "Section 3.3, open",
        "Open in the paper: is there a stable student that does not keep weights beside the teacher's?",
        of_sweeps.delta_against_full,
    ),
    _sweep(
        "initialisations",
        "What a student starts from",
        "Section 3.5, open",
        "Open in the paper: are ShortGPT's layers, or LaCo's merged ones, a better start?",
        of_sweeps.initialisations,
    ),
)
