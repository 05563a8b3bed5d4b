"""Pages that must make no noise, and a family with something to show on them."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fakes import WatchedFamily
from playwright.sync_api import Page

from anysize.family.manifest import FolderTeacher, FullStudent, Manifest, Measurement

DESKTOP, PHONE = 1280, 390
LIMIT_MS = 30_000


@dataclass
class Opened:
    """A page, and what it did beside being looked at."""

    page: Page
    url: str
    may_fail: bool = False
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self) -> None:
        self.page.set_default_timeout(LIMIT_MS)
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in {"error", "warning"} else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def check(self) -> None:
        assert self.hosts == {urlsplit(self.url).netloc}
        assert self.may_fail or not self.complaints


def measured(family: WatchedFamily) -> WatchedFamily:
    """The same family, as if the quality of its sizes had been measured: a layer more halves the perplexity."""
    measurements = tuple(
        Measurement(
            variant=size.id,
            dataset="sea.txt",
            dataset_sha256="0" * 64,
            perplexity=20.0 * 2.0 ** (8 - size.layers),
            kl=float(8 - size.layers),
            tokens=100,
        )
        for size in family.ladder
    )
    family.manifest = Manifest(
        name="tiny",
        architecture="llama",
        teacher_layers=8,
        kept_layers=family.bank.blocks.kept,
        teacher=FolderTeacher(fingerprint="0" * 64),
        student=FullStudent(),
        files={},
        measurements=measurements,
    )
    return family
