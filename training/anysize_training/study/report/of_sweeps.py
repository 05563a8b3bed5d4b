"""Verdicts on sweeps: each reads the JSON of one `anysize-train sweep`."""

from statistics import fmean
from typing import Any

from anysize_training.study.report.verdict import Report, Verdict, held, is_smooth, largest_step_up, number

Sizes = list[dict[str, Any]]


def loss_ablation(report: Report) -> Verdict:
    """Figure 5: all terms together give the lowest perplexity."""
    means = {arm: _interior(found["sizes"]) for arm, found in report["arms"].items()}
    best = min(means, key=lambda arm: means[arm])
    finding = (
        f"mean perplexity over interior sizes: {_list(report, means)}; the least has {_label(report, best)}, and the "
        f"spread over seeds of all terms together is {number(_spread(report, 'all'))}"
    )
    return held(best == "all", finding, *_table(report))


def random_initialisation(report: Report) -> Verdict:
    """Figure 2: patching a student that started from chance gives nothing."""
    ours, chance = (report["arms"][arm]["sizes"] for arm in ("all", "random"))
    ratios = [
        theirs["perplexity"]["mean"] / size["perplexity"]["mean"] for size, theirs in zip(ours, chance, strict=True)
    ]
    student = chance[0]["perplexity"]["mean"]
    better = [size["variant"] for size in chance[1:-1] if size["perplexity"]["mean"] < student]
    finding = (
        f"interior sizes of the random student are {number(min(ratios[1:-1]))} to {number(max(ratios[1:-1]))} times "
        f"worse than those of the initialised one; {len(better)} of {len(chance) - 2} are better than their own student"
    )
    return held(min(ratios[1:-1]) > 1 and not better, finding, *_table(report))


def student_size(report: Report) -> Verdict:
    """Figure 8: students of every 2nd and 3rd layer interpolate smoothly, smaller ones do not."""
    perplexities = {arm: _means(found["sizes"]) for arm, found in report["arms"].items()}
    ups = ", ".join(f"{_label(report, arm)} {largest_step_up(values):.1%}" for arm, values in perplexities.items())
    interior = {arm: _interior(found["sizes"]) for arm, found in report["arms"].items()}
    finding = f"largest step up: {ups}; mean perplexity over interior sizes: {_list(report, interior)}"
    smooth = [arm for arm, values in perplexities.items() if is_smooth(values)]
    return held(smooth == ["all", "third"], finding, *_table(report))


def token_budget(report: Report) -> Verdict:
    """Figure 10: more tokens, better sizes."""
    means = {arm: _interior(found["sizes"]) for arm, found in report["arms"].items()}
    ordered = list(means.values())
    finding = f"mean perplexity over interior sizes: {_list(report, means)}"
    return held(ordered == sorted(ordered, reverse=True), finding, *_table(report))


def initialisation_and_order(report: Report) -> Verdict:
    """Figure 24: for Llama, keeping the first two layers and patching from the first is best."""
    means = {arm: _interior(found["sizes"]) for arm, found in report["arms"].items()}
    best = min(means, key=lambda arm: means[arm])
    finding = f"mean perplexity over interior sizes: {_list(report, means)}; the least has {_label(report, best)}"
    return held(best == "first-forward", finding, *_table(report))


def standard_distillation(report: Report) -> Verdict:
    """Figure 4: a size put together without training is as good as one distilled for itself, at the large end."""
    patched = {size["layers"]: size for size in report["arms"]["all"]["sizes"]}
    rows: list[list[str]] = []
    better: list[int] = []
    for found in report["arms"].values():
        if not found["only_student"]:
            continue
        (own,) = found["sizes"]
        ours = patched[own["layers"]]["perplexity"]["mean"]
        if ours <= own["perplexity"]["mean"]:
            better.append(own["layers"])
        rows.append([str(own["layers"]), number(ours), _shown(own["perplexity"])])
    largest = max(int(row[0]) for row in rows)
    finding = f"patched sizes are at least as good at {len(better)} of {len(rows)} depths: {better or 'none'}"
    return held(largest in better, finding, ["layers", "patched", "distilled for itself"], rows)


def delta_against_full(report: Report) -> Verdict:
    """Row 34 of the open questions: students that are updates over the teacher, at equal tokens."""
    means = {arm: _interior(found["sizes"]) for arm, found in report["arms"].items()}
    students = {arm: found["sizes"][0]["perplexity"]["mean"] for arm, found in report["arms"].items()}
    finding = (
        f"mean perplexity over interior sizes: {_list(report, means)}; of the student itself: {_list(report, students)}"
    )
    return Verdict("finding", finding, *_table(report))


def initialisations(report: Report) -> Verdict:
    """Row 30 of the open questions: which start is best, before training and behind it.

    An arm named `NAME-start` is the arm NAME before its training.
    """
    arms = report["arms"]
    trained = [arm for arm in arms if f"{arm}-start" in arms]
    students = {arm: found["sizes"][0]["perplexity"]["mean"] for arm, found in arms.items()}
    interior = {arm: _interior(found["sizes"]) for arm, found in arms.items()}

    def best(of: dict[str, float], suffix: str) -> str:
        arm = min(trained, key=lambda name: of[name + suffix])
        return f"{_label(report, arm)} ({number(of[arm + suffix])})"

    finding = (
        f"the student itself begins best as {best(students, '-start')} and ends best as {best(students, '')}; the "
        f"sizes between have the least mean perplexity with {best(interior, '-start')} before training and with "
        f"{best(interior, '')} behind it"
    )
    columns = ["start", "student, untrained", "student", "between, untrained", "between", "spread"]
    rows = [
        [
            _label(report, arm),
            *(number(of[name]) for of in (students, interior) for name in (f"{arm}-start", arm)),
            number(_spread(report, arm)),
        ]
        for arm in trained
    ]
    return Verdict("finding", finding, columns, rows)


def _means(sizes: Sizes) -> list[float]:
    return [size["perplexity"]["mean"] for size in sizes]


def _interior(sizes: Sizes) -> float:
    return fmean(_means(sizes)[1:-1])


def _spread(report: Report, arm: str) -> float:
    return fmean(size["perplexity"]["deviation"] or 0.0 for size in report["arms"][arm]["sizes"][1:-1])


def _label(report: Report, arm: str) -> str:
    return report["arms"][arm]["label"]


def _list(report: Report, values: dict[str, float]) -> str:
    return ", ".join(f"{_label(report, arm)} {number(value)}" for arm, value in values.items())


def _shown(spread: dict[str, Any]) -> str:
    return number(spread["mean"]) + (f" ± {number(spread['deviation'])}" if spread["deviation"] is not None else "")


def _table(report: Report) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            found["label"],
            size["variant"],
            str(size["layers"]),
            _shown(size["perplexity"]),
            number(size["kl"]["mean"], 3),
        ]
        for found in report["arms"].values()
        for size in found["sizes"]
    ]
    return ["arm", "variant", "layers", "perplexity", "KL"], rows
