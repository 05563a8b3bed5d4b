"""Verdicts on experiments that need no further training: each reads the JSON of one command."""

from itertools import pairwise
from statistics import fmean

from anysize_training.study.report.verdict import Report, Verdict, held, is_smooth, largest_step_up, number


def interpolation(report: Report) -> Verdict:
    """Figure 2: sizes between student and teacher are worth what lies between."""
    sizes = report["sizes"]
    perplexities = [size["perplexity"] for size in sizes]
    student, teacher = perplexities[0], perplexities[-1]
    is_between = all(teacher <= perplexity <= student for perplexity in perplexities)
    ups = sum(larger > smaller for smaller, larger in pairwise(perplexities))
    untrained = report.get("untrained_student_perplexity")
    finding = (
        f"perplexity falls from {number(student)} to {number(teacher)} over {len(sizes)} sizes; "
        f"{ups} of {len(sizes) - 1} steps go up, the largest by {largest_step_up(perplexities):.1%}"
    )
    if untrained:
        finding += f". The same layers without distillation: {number(untrained)}"
    rows = [
        [
            size["variant"],
            str(size["layers"]),
            number(size["fraction"], 3),
            number(size["perplexity"]),
            number(size["kl"], 3),
        ]
        for size in sizes
    ]
    return held(
        is_between and is_smooth(perplexities), finding, ["variant", "layers", "fraction", "perplexity", "KL"], rows
    )


def against_baselines(report: Report) -> Verdict:
    """Figures 2 and 7: no pruned or merged model of the same depth is as good as the family's size."""
    ours = {row["layers"]: row for row in report["rows"] if row["method"] == "family"}
    whole = max(ours)
    interior = [depth for depth in ours if min(ours) < depth < whole]
    methods = list(dict.fromkeys(row["method"] for row in report["rows"] if row["method"] != "family"))
    found = {(row["method"], row["asked_layers"]): row for row in report["rows"]}
    lost: list[str] = []
    rows: list[list[str]] = []
    for depth in sorted(interior):
        shown = [str(depth), number(ours[depth]["perplexity"])]
        for method in methods:
            row = found.get((method, depth))
            perplexity = row["perplexity"] if row else None
            shown.append(number(perplexity) if row and row["layers"] else "none that small")
            if perplexity is not None and perplexity < ours[depth]["perplexity"]:
                lost.append(f"{method} at {depth} layers")
        rows.append(shown)
    finding = f"at {len(interior) * len(methods) - len(lost)} of {len(interior) * len(methods)} interior points the "
    finding += "family's size is better"
    if lost:
        finding += (
            f"; not against {', '.join(lost)}, which may leave out any layer, where the family changes whole blocks"
        )
    return held(not lost, finding, ["layers", "family", *methods], rows)


def teacher_layers(report: Report) -> Verdict:
    """Appendix I: neighbouring teacher layers say nearly the same."""
    cosines = [row["cosines"] for row in report["rows"]]
    near = fmean(cosines[layer][layer + 1] for layer in range(len(cosines) - 1))
    far = fmean(
        cosines[i][j] for i in range(len(cosines)) for j in range(len(cosines)) if abs(i - j) > len(cosines) // 2
    )
    lowest = min(range(len(cosines) - 1), key=lambda layer: cosines[layer][layer + 1])
    finding = (
        f"mean cosine of neighbours {number(near, 3)}, of layers more than half the depth apart {number(far, 3)}; the "
        f"least alike neighbours are layers {lowest} and {lowest + 1} ({number(cosines[lowest][lowest + 1], 3)})"
    )
    return held(near > far, finding, [], [])


def student_layers(report: Report) -> Verdict:
    """Figures 23, 25, 26: a distilled student's layer is alike to the last layer of its block."""
    rows: list[list[str]] = []
    apart: list[int] = []
    for row in report["rows"]:
        cosines, (first, last) = row["cosines"], row["block"]
        best = max(range(len(cosines)), key=lambda layer: cosines[layer])
        if not first - 1 <= best <= last + 1:
            apart.append(row["layer"])
        rows.append([str(row["layer"]), f"{first}-{last}", number(cosines[last], 3), str(best)])
    finding = (
        f"{len(rows) - len(apart)} of {len(rows)} student layers are most alike to a teacher layer of their block "
    )
    finding += "or beside it" + (f"; not {', '.join(map(str, apart))}" if apart else "")
    return held(
        len(apart) * 4 <= len(rows), finding, ["student layer", "block", "cosine to its end", "most alike to"], rows
    )


def last_layer(report: Report) -> Verdict:
    """Figure 27: the more positions are patched, the more alike the last layer's outputs."""
    nested = sorted((row for row in report["rows"] if row["nested"]), key=lambda row: row["patched"])
    falls = [later["patched"] for earlier, later in pairwise(nested) if later["cosine"] < earlier["cosine"] - 1e-4]
    finding = (
        f"from {number(nested[0]['cosine'], 3)} with no position patched to {number(nested[-1]['cosine'], 3)} with "
        "all; " + (f"it falls at {len(falls)} of {len(nested) - 1} steps" if falls else "it never falls")
    )
    rows = [[row["variant"], str(row["patched"]), number(row["cosine"], 4)] for row in nested]
    return held(not falls, finding, ["variant", "patched", "cosine"], rows)


def flops(report: Report) -> Verdict:
    """Table 3: one distillation costs a fraction of one for every size."""
    off = max(abs(row["counted_forward"] / row["forward"] - 1) for row in report["rows"] if row.get("counted_forward"))
    rows = [
        [
            one["teacher"],
            number(one["ratio"]),
            number(one["paper"]["ratio"]),
            f"{one['ratio'] / one['paper']['ratio'] - 1:+.1%}",
        ]
        for one in report["paper"]
    ]
    worst = max(abs(one["ratio"] / one["paper"]["ratio"] - 1) for one in report["paper"])
    finding = (
        f"the closed form gives the paper's ratios within {worst:.1%}, and this family's forward passes as torch "
        f"counts them within {off:.1%}; here distilling once costs {number(report['training']['ratio'])} times less "
        f"than a distillation for each of {len(report['rows']) - 2} interior sizes"
    )
    return held(worst < 0.05, finding, ["teacher", "ratio, closed form", "ratio, paper", "difference"], rows)


def orders(report: Report) -> Verdict:
    """Row 29 of the open questions: a patch order guided by a measure."""
    text = "evaluation" if "evaluation" in report["texts"] else "calibration"
    rows = [
        [
            one["method"],
            str(len(one["ladder"])),
            number(one["means"][text]["depths_kl"], 3),
            number(one["means"][text]["depths_perplexity"]),
        ]
        for one in report["orders"]
    ]
    best = min(report["orders"], key=lambda one: one["means"][text]["depths_kl"])
    plain = [one for one in report["orders"] if one["method"] in ("last_to_first", "first_to_last")]
    sequential = min(plain, key=lambda one: one["means"][text]["depths_kl"])
    finding = (
        f"{best['method']} has the least mean KL over all depths ({number(best['means'][text]['depths_kl'], 3)}); the "
        f"better sequential order, {sequential['method']}, has {number(sequential['means'][text]['depths_kl'], 3)}"
    )
    return Verdict("finding", finding, ["order", "sizes", "mean KL", "mean perplexity"], rows)
