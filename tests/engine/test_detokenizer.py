"""Text from tokens, one at a time."""

from typing import cast

import pytest
from fakes import SPECIAL, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from anysize.engine.detokenizer import Detokenizer

TOKENIZER = byte_tokenizer()
ALPHABET = "ab \n\t.é߷€日本語한𝄞🙂👩‍👩‍👧‍👦e\u0301\u202e\ufeff\x00"
TEXTS = st.text(st.sampled_from(ALPHABET) | st.characters(codec="utf-8"), max_size=40)


def ids_of(raw: bytes) -> list[int]:
    """One token a byte, whether or not the bytes make characters."""
    by_byte = {byte: TOKENIZER.convert_tokens_to_ids(char) for byte, char in byte_alphabet().items()}
    return [cast(int, by_byte[byte]) for byte in raw]


def byte_alphabet() -> dict[int, str]:
    """GPT-2's table: printable bytes stand for themselves, the others for characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}


def streamed(ids: list[int], *stop: str) -> tuple[str, int | None]:
    """The text, and how many tokens it took until a stop string was found."""
    detokenizer = Detokenizer(TOKENIZER, stop)
    for count, token in enumerate(ids, start=1):
        if detokenizer.add(token):
            return detokenizer.finish(), count
    return detokenizer.finish(), None


@given(TEXTS)
def test_text_comes_back_whole(text: str):
    assert streamed(ids_of(text.encode())) == (text, None)


@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from([b"\xe2", b"\x82", b"\xac", b"\xf0\x9f", b"a", b"\xff", b"\xef\xbf\xbd"])).map(b"".join)
)
def test_pieces_of_invalid_bytes_join_to_what_decoding_all_at_once_gives(raw: bytes):
    ids = ids_of(raw)
    assert streamed(ids)[0] == TOKENIZER.decode(ids) == raw.decode(errors="replace")


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_special_tokens_leave_no_text(ids: list[int]):
    assert streamed(ids)[0] == TOKENIZER.decode(ids, skip_special_tokens=True)
    assert not any(special in streamed(ids)[0] for special in SPECIAL)


@given(TEXTS, st.lists(st.text(st.sampled_from(ALPHABET), min_size=1, max_size=3), min_size=1, max_size=3))
def test_the_answer_ends_before_the_first_stop_string_to_be_complete(text: str, stop: list[str]):
    ends = [place + len(one) for one in stop if (place := text.find(one)) >= 0]
    if not ends:
        assert streamed(ids_of(text.encode()), *stop) == (text, None)
        return
    # Characters come one after another here, so the stop string that is complete first ends the answer.
    read = text[: min(ends)]
    wanted = min(read.find(one) for one in stop if one in read)
    assert streamed(ids_of(text.encode()), *stop) == (text[:wanted], len(read.encode()))


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("one two three", ["two"], "one "),
        ("STOP here", ["STOP"], ""),
        ("abcabd", ["abd"], "abc"),
        ("aaab", ["aab"], "a"),
        ("x end y stop", ["stop", "end"], "x "),
        ("xabcd", ["abcd", "bc"], "xa"),
        ("日本語です", ["語"], "日本"),
        ("a\nb\n\nc", ["\n\n"], "a\nb"),
        ("no stop", ["STOP"], "no stop"),
    ],
)
def test_stop_strings_cut_the_answer(text: str, stop: list[str], wanted: str):
    assert streamed(ids_of(text.encode()), *stop)[0] == wanted


def test_a_stop_string_in_a_token_that_ends_in_half_a_character_is_seen_at_once():
    class Pieces:
        """Tokens of several bytes."""

        pieces = (b"go ", b"END\xe2\x82", b"\xac")

        def decode(self, ids: list[int], **_: object) -> str:
            return b"".join(self.pieces[token] for token in ids).decode(errors="replace")

    detokenizer = Detokenizer(Pieces(), ["END"])  # pyright: ignore[reportArgumentType]
    assert [detokenizer.add(0), detokenizer.add(1)] == [False, True]
    assert detokenizer.finish() == "go "


def test_of_two_stop_strings_in_one_token_the_earlier_cuts():
    class Pieces:
        def decode(self, ids: list[int], **_: object) -> str:
            return "".join("x two one" for _ in ids)

    detokenizer = Detokenizer(Pieces(), ["one", "two"])  # pyright: ignore[reportArgumentType]
    assert detokenizer.add(0)
    assert detokenizer.finish() == "x "


def test_half_a_character_at_the_end_is_shown_as_such():
    assert streamed(ids_of("a€".encode()[:-1])) == ("a\ufffd", None)


@given(TEXTS, st.lists(st.text(st.sampled_from(ALPHABET), min_size=1, max_size=4), max_size=3))
def test_the_news_join_to_the_whole_text_and_what_is_told_is_never_taken_back(text: str, stop: list[str]):
    detokenizer = Detokenizer(TOKENIZER, stop)
    told: list[str] = []
    for character in text:
        is_stopped = False
        for token in ids_of(character.encode()):
            is_stopped = detokenizer.add(token)
            told.append(detokenizer.news())
            if is_stopped:
                break
        if is_stopped:
            break
    else:
        # No more waits than a stop string could begin with.
        assert len(text) - len("".join(told)) < max(map(len, stop), default=1)
    whole = detokenizer.finish()
    assert whole.startswith("".join(told))
    assert "".join(told) + detokenizer.news() == whole
    assert detokenizer.news() == ""


def test_half_a_stop_string_is_told_once_it_is_none():
    detokenizer = Detokenizer(TOKENIZER, ("END",))
    told: list[str] = []
    for token in ids_of(b"aENEND"):
        detokenizer.add(token)
        told.append(detokenizer.news())
    assert told == ["a", "", "", "EN", "", ""]


def test_half_a_stop_string_at_the_end_is_told_then():
    detokenizer = Detokenizer(TOKENIZER, ("END",))
    for token in ids_of(b"aEN"):
        detokenizer.add(token)
    assert detokenizer.news() == "a"
    assert detokenizer.finish() == "aEN"
    assert detokenizer.news() == "EN"
