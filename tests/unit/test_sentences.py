"""Cutting text into sentences, whole and while it is being written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.coordinator.sentences import SentenceSplitter, split


def texts(text: str) -> list[str]:
    return [text[s.start : s.end] for s in split(text)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 3.5 MB, i.e. little. Fine.", ["It costs 3.5 MB, i.e. little.", "Fine."]),
        ("See e.g. Dr. Foo etc. Then go.", ["See e.g. Dr. Foo etc.", "Then go."]),
        ("Use `a. b` now. Done", ["Use `a. b` now.", "Done"]),
        ("- one\n- two\n\nrest", ["one", "two", "rest"]),
        ("1. First. Still first\n2. Second", ["First.", "Still first", "Second"]),
        ("A line\nthat goes on. Next", ["A line\nthat goes on.", "Next"]),
        ("**Bold.** Next", ["**Bold.**", "Next"]),
        ("Wait... what? Yes", ["Wait... what?", "Yes"]),
        ("你好。再见。", ["你好。", "再见。"]),
        ("", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert texts(text) == sentences


def test_blocks_are_told_apart() -> None:
    text = "# Title\n\nSay:\n\n```nix\na. b;\n\n```\nEnd."
    assert [s.kind for s in split(text)] == ["heading", "sentence", "code", "sentence"]


PIECES = st.lists(
    st.sampled_from(
        ["Word", " ", ". ", "! ", "e.g. ", "3.5", "`", "```\n", "\n", "\n\n", "- ", "1. ", "# ",
         "[1]", "|", "...", "etc. ", "。", "(", ")", "ä", ": "]
    ),
    max_size=30,
)  # fmt: skip


@given(PIECES, st.data())
def test_a_stream_is_cut_like_the_whole_text(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    splitter = SentenceSplitter()
    found = []
    rest = text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += splitter.feed(rest[:size])
        rest = rest[size:]
    found += splitter.finish()
    assert found == split(text)


@given(PIECES)
def test_nothing_is_released_before_its_sentence_could_end(pieces: list[str]) -> None:
    splitter = SentenceSplitter()
    released = 0
    for piece in pieces:
        for sentence in splitter.feed(piece):
            assert sentence.end >= released, "text after a sentence was shown before its end"
        released = max(released, splitter.safe)


@given(PIECES)
def test_sentences_are_in_order_and_apart(pieces: list[str]) -> None:
    at = 0
    for sentence in split("".join(pieces)):
        assert at <= sentence.start < sentence.end
        at = sentence.end
