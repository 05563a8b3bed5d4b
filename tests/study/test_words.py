"""Word perplexity of whole documents, against lm-evaluation-harness's own windows, loop and task."""

import json
import math
import re
from pathlib import Path

import lm_eval.tasks.wikitext
import pytest
import torch
from fakes import ARCHITECTURES, byte_tokenizer, tiny_bank
from hypothesis import example, given
from hypothesis import strategies as st
from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch.nn import functional as F

from anysize.errors import SettingsError
from anysize.family.assembly import assemble
from anysize.family.variant import Variant
from anysize_training.study.pages import Page, Pages, detokenised_page, read_pages, wikitext_pages
from anysize_training.study.rolling import Rolled, rolling_quality, rolling_windows
from anysize_training.study.tasks import load_tasks

WIKITEXT = "\n".join(
    (
        " ",
        " = Robert <unk> = ",
        " ",
        ' He said , " yes ( no ) " , in 2000 @-@ 2001 for 1 @,@ 500 @.@ 5 dollars ; it \'s \u00b0 N . ',
        "",
        " = = Life = = ",
        " ",
        " The ships ' endurance : [ none ] { at } all ! ",
        " = Du Fu = ",
        " ",
        " A poet . ",
        "",
    )
)
PIECES = [
    *" \n'\"()[]{}@=.,;:!?",
    " @-@ ",
    " = ",
    "= = =",
    " = = Life = = ",
    " 's",
    "s '",
    " N ",
    "\u00b0",
    "word",
    "é",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@given(TEXTS)
def test_pages_are_detokenised_as_the_harness_does(text: str) -> None:
    assert detokenised_page(text) == wikitext_detokenizer({"page": text})


@given(TEXTS)
@example(" = Du Fu = \n A poet . ")
def test_pages_together_are_the_text(text: str) -> None:
    assert "\n".join(wikitext_pages(text)) == text


def test_a_page_goes_from_one_title_to_the_next() -> None:
    pages = [page for page in wikitext_pages(WIKITEXT) if page.strip()]
    assert [page.split("\n")[0] for page in pages] == [" = Robert <unk> = ", " = Du Fu = "]
    assert " = = Life = = " in pages[0]


@given(st.lists(st.integers(3, 250), max_size=40), st.integers(1, 12))
def test_windows_are_those_of_the_harness(ids: list[int], context: int) -> None:
    theirs = map(make_disjoint_window, get_rolling_token_windows(ids, 1, context, 1))
    # The harness gives context and continuation apart, and shows a model all of both but the last token.
    expected = [(tuple([*before, *after][:-1]), tuple(after)) for before, after in theirs]
    assert list(rolling_windows(ids, 1, context)) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_documents_score_what_plain_transformers_gives_token_by_token(architecture: str) -> None:
    bank, texts = tiny_bank(architecture), ("short", "a document that is longer than the context", "x" * 14)
    pages = Pages("text", "0" * 64, tuple(Page.of(text, text) for text in texts))
    rolled = Rolled.of(pages, byte_tokenizer(), 14)
    model = assemble(bank, Variant((True, False, False)))
    expected = 0.0
    for text in texts:
        ids = [1, *byte_tokenizer()(text).input_ids]
        for place in range(1, len(ids)):
            # Windows of 14 targets; the last is filled up from before.
            stop = min(-(-place // 14) * 14, len(ids) - 1)
            seen = torch.tensor([ids[max(stop - 14, 0) : place]])
            with torch.no_grad():
                expected += F.cross_entropy(model(seen).logits[0, -1], torch.tensor(ids[place])).item()
    found = rolling_quality(model, bank.architecture, rolled, "a")
    assert found.negative_log_likelihood == pytest.approx(expected, rel=1e-5)
    assert (found.tokens, found.words, found.utf8_bytes) == (61, 10, 61)
    assert found.token_perplexity == pytest.approx(math.exp(expected / 61), rel=1e-5)


@pytest.mark.parametrize("context", [24, 256])
def test_words_score_what_the_harness_gives_in_its_wikitext_task(tmp_path: Path, context: int) -> None:
    text = tmp_path / "wiki.txt"
    text.write_text(WIKITEXT)
    pages = read_pages(text, wikitext=True)
    (tmp_path / "pages.jsonl").write_text(
        "".join(json.dumps({"page": page}) + "\n" for page in wikitext_pages(WIKITEXT) if page.strip())
    )
    shipped = Path(lm_eval.tasks.wikitext.__path__[0]) / "wikitext.yaml"
    (tmp_path / "task.yaml").write_text(
        f"include: {shipped}\ntask: ours\ndataset_path: json\ndataset_name: null\ntraining_split: null\n"
        f"validation_split: null\ndataset_kwargs: {{data_files: {{test: {tmp_path}/pages.jsonl}}}}\n"
    )
    bank, tokenizer = tiny_bank("llama"), byte_tokenizer()
    [task] = load_tasks(["ours"], include=tmp_path)
    for variant in (Variant.teacher(3), Variant((False, True, False))):
        model = assemble(bank, variant)
        theirs = task.result(model, tokenizer, context=context, batch=2)
        ours = rolling_quality(model, bank.architecture, Rolled.of(pages, tokenizer, context), "a")
        assert ours.word_perplexity == pytest.approx(theirs.metrics["word_perplexity"], rel=1e-4)
        assert ours.byte_perplexity == pytest.approx(theirs.metrics["byte_perplexity"], rel=1e-5)
        assert ours.bits_per_byte == pytest.approx(theirs.metrics["bits_per_byte"], rel=1e-5)
        assert theirs.examples == 2
    assert ours.words == sum(len(re.split(r"\s+", page)) for page in wikitext_pages(WIKITEXT) if page.strip())


def test_other_text_is_one_document_and_rows_are_one_each(tmp_path: Path) -> None:
    text, rows = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text("one , two\n\n = three = \n")
    assert [page.text for page in read_pages(text).pages] == ["one , two\n\n = three = \n"]
    rows.write_text("".join(json.dumps({"text": word}) + "\n" for word in ("one", "two words", "three")))
    chosen = read_pages(rows, first_row=1, limit=1)
    assert [(page.text, page.words) for page in chosen.pages] == [("two words", 2)]
    assert chosen.sha256 != read_pages(rows).sha256
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(SettingsError, match="no text"):
        read_pages(tmp_path / "empty.txt")
