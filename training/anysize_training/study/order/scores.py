"""The quality of variants on one text, kept in a file as it is measured, so that a search can be taken up again."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from anysize.errors import SettingsError
from anysize.family.files import write_whole
from anysize.family.variant import Variant
from anysize_training.study.patchwork import Patchwork
from anysize_training.study.quality import Quality


class Scores:
    """Measures each variant once.

    Args:
        patchwork: measures.
        made_of: what the numbers follow from, as JSON holds it; a file that was made of anything else is refused.
        path: of the file; without one nothing is kept.

    Attributes:
        patchwork: measures.
        blocks: its block map.

    Raises:
        SettingsError: the file is damaged, or was made of something else.
    """

    def __init__(self, patchwork: Patchwork, made_of: dict[str, str], path: Path | None = None) -> None:
        self.blocks = patchwork.blocks
        self.patchwork = patchwork
        self._made_of = made_of
        self._path = path
        self._known: dict[str, Quality] = {}
        if path is not None and path.exists():
            self._known = _read(path, made_of)

    def quality(self, variant: Variant) -> Quality:
        """The quality of a variant."""
        if variant.id not in self._known:
            self._keep(variant, self.patchwork.quality(variant))
        return self._known[variant.id]

    def extensions(self, variant: Variant, progress: tqdm) -> dict[int, Quality]:
        """The quality that a variant has once one position more is patched, by that position, counted from 1.

        The hidden states in front of a position are those of `variant` and are computed once.

        Args:
            variant: with at least one position that is not patched.
            progress: moved by one for each.
        """
        extended = {
            position: Variant.of(len(variant.choice), (*variant.patched, position))
            for position, is_patched in enumerate(variant.choice, start=1)
            if not is_patched
        }
        missing = [position for position, candidate in extended.items() if candidate.id not in self._known]
        progress.update(len(extended) - len(missing))
        hidden_NLD = None
        for position in range(1, max(missing, default=0) + 1):
            if position in missing:
                self._keep(extended[position], self.patchwork.finish(extended[position], hidden_NLD, position - 1))
                progress.update()
            hidden_NLD = self.patchwork.run(hidden_NLD, position - 1, patched=variant.choice[position - 1])
        return {position: self._known[candidate.id] for position, candidate in extended.items()}

    def everything(self) -> dict[Variant, Quality]:
        """The quality of every variant, with a progress bar."""
        positions = self.blocks.student_layers
        with tqdm(total=2**positions, desc="every subset", unit="size") as progress:
            progress.update(len(self._known))
            for variant, quality in self.patchwork.subsets(range(positions), lambda one: one.id not in self._known):
                self._keep(variant, quality)
                progress.update()
        return {Variant.parse(name, positions): quality for name, quality in self._known.items()}

    def of(self, variants: Iterable[Variant], what: str) -> dict[Variant, Quality]:
        """The quality of some variants, with a progress bar."""
        return {variant: self.quality(variant) for variant in tqdm([*variants], desc=what, unit="size", leave=False)}

    def _keep(self, variant: Variant, quality: Quality) -> None:
        self._known[variant.id] = quality
        if self._path is not None:
            text = {"made_of": self._made_of, "scores": {name: asdict(one) for name, one in self._known.items()}}
            write_whole(self._path, json.dumps(text))


def _read(path: Path, made_of: dict[str, str]) -> dict[str, Quality]:
    try:
        text = json.loads(path.read_bytes())
        found, scores = text["made_of"], {name: Quality(**one) for name, one in text["scores"].items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise SettingsError(f"{path} is damaged ({error}); delete it and the search begins anew") from error
    if found != made_of:
        differs = ", ".join(sorted(name for name in made_of if found.get(name) != made_of[name]))
        raise SettingsError(f"{path} holds scores of another {differs}; delete it, or name another --out")
    return scores
