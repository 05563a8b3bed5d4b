"""The pages of a report: Markdown for a repository, and one HTML file that needs nothing beside it."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from anysize_training.study.report.experiments import Experiment
from anysize_training.study.report.verdict import Verdict

_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}
_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1c1f23;
  background: #fff; }
h1, h2 { line-height: 1.25; } h2 { margin-top: 2.5rem; border-top: 1px solid #d8dce0; padding-top: 1.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { border-bottom: 1px solid #d8dce0; padding: .25rem .7rem; text-align: left; white-space: nowrap; }
table.summary td { white-space: normal; vertical-align: top; }
table.summary td:nth-child(4) { min-width: 18rem; }
img { max-width: 100%; } pre { background: #f3f4f6; padding: .7rem; overflow-x: auto; } code { font-size: .85rem; }
details { margin: 1rem 0; } summary { cursor: pointer; }
@media (prefers-color-scheme: dark) { body { background: #15181b; color: #e4e7ea; } pre { background: #22262b; }
  th, td, h2 { border-color: #3a4047; } img { background: #fff; padding: .5rem; } }
"""


@dataclass(frozen=True, slots=True)
class Section:
    """An experiment and what came of it.

    Attributes:
        experiment: which.
        verdict: on its claim.
        command: that anybody can run.
        picture: its file, beside the pages; None where there is none.
    """

    experiment: Experiment
    verdict: Verdict
    command: str
    picture: Path | None


def markdown(title: str, introduction: Sequence[str], sections: Sequence[Section]) -> str:
    """The report as Markdown, with pictures by their names.

    Args:
        title: of the page.
        introduction: paragraphs.
        sections: in their order.
    """
    lines = [f"# {title}", ""]
    for paragraph in introduction:
        lines += [paragraph, ""]
    lines += ["| experiment | paper | status | what came out |", "|---|---|---|---|"]
    lines += [
        f"| [{one.experiment.title}](#{_anchor(one.experiment.title)}) | {one.experiment.paper} | "
        f"**{one.verdict.status}** | {one.verdict.finding} |"
        for one in sections
    ]
    for one in sections:
        lines += ["", f"## {one.experiment.title}", "", f"*{one.experiment.paper}.* {one.experiment.claim}", ""]
        lines += [f"**{one.verdict.status.capitalize()}**: {one.verdict.finding}.", ""]
        if one.picture is not None:
            lines += [f"![{one.experiment.title}]({one.picture.name})", ""]
        lines += ["```sh", one.command, "```"]
        if one.verdict.rows:
            lines += ["", f"| {' | '.join(one.verdict.columns)} |", f"|{'---|' * len(one.verdict.columns)}"]
            lines += [f"| {' | '.join(row)} |" for row in one.verdict.rows]
    return "\n".join(lines) + "\n"


def page(title: str, text: str, sections: Sequence[Section]) -> str:
    """The same as one HTML file, with the pictures inside and long tables folded.

    Args:
        title: of the page.
        text: the Markdown.
        sections: whose pictures it names.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for one in sections:
        heading = f"<h2>{html.escape(one.experiment.title, quote=False)}</h2>"
        body = body.replace(heading, heading.replace("<h2>", f'<h2 id="{_anchor(one.experiment.title)}">'))
        if one.picture is not None:
            data = base64.b64encode(one.picture.read_bytes()).decode()
            body = body.replace(f'src="{one.picture.name}"', f'src="data:{_KINDS[one.picture.suffix]};base64,{data}"')
    summary, *tables = body.split("<table>")
    folded = [
        f'<div class="wide"><table class="summary">{tables[0]}',
        *(f'<details><summary>All figures</summary><div class="wide"><table>{table}' for table in tables[1:]),
    ]
    folded = [
        part.replace("</table>", "</table></div>" + ("" if number == 0 else "</details>"))
        for number, part in enumerate(folded)
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{summary}{''.join(folded)}</body></html>\n"
    )


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter == "-")
