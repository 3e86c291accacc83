"""From deltas to a cited answer: markers, spans, what the model writes itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.coordinator.answers import NOT_TRACED, Answer, AnswerWriter, MarkerFilter, QuoteFilter
from aistack.coordinator.evidence import Evidence, Passage

TEXT = "Nix is a package manager. The firewall listens on port 80. It is enabled by default."
DOCUMENT = "x" * 50 + TEXT
QUESTION = "Which port does the firewall listen on?"


def evidence() -> Evidence:
    return Evidence([Passage("doc", "chunk", "a.md", "A", TEXT, 50, 50 + len(TEXT))])


def write(text: str, size: int = 3) -> tuple[str, Answer]:
    writer = AnswerWriter(evidence(), QUESTION)
    shown = "".join(writer.feed(text[i : i + size]) for i in range(0, len(text), size))
    tail, answer = writer.finish()
    return shown + tail, answer


def test_a_marker_follows_its_sentence() -> None:
    shown, answer = write("The firewall listens on port 80. Bananas are yellow fruits.")
    assert shown == "The firewall listens on port 80. [1] Bananas are yellow fruits."
    assert answer.grounded == 0.5


def test_a_quote_is_the_documents_text() -> None:
    _, answer = write("The firewall listens on port 80.")
    (citation,) = answer.citations
    assert citation.quote == "The firewall listens on port 80."
    assert DOCUMENT[citation.char_start : citation.char_end] == citation.quote


def test_sentences_are_found_in_the_answer() -> None:
    shown, answer = write(
        "The firewall listens on port 80. Bananas are yellow fruits.\n\n- Nix too."
    )
    assert [shown[s.start : s.end] for s in answer.sentences] == [s.text for s in answer.sentences]


def test_one_span_has_one_number() -> None:
    shown, answer = write("The firewall listens on port 80. Port 80 is where the firewall listens.")
    assert len(answer.citations) == 1
    assert shown.count("[1]") == 2


@pytest.mark.parametrize("marker", ["[1]", "[2, 3]", "[^1]", " [1-3]", "【1†source】"])
def test_the_models_own_markers_are_never_believed(marker: str) -> None:
    shown, _ = write(f"Bananas are yellow fruits{marker}. More of them{marker} grow. The end")
    assert marker.strip() not in shown.split(NOT_TRACED)[0]


def test_brackets_in_code_stay() -> None:
    marker_filter = MarkerFilter()
    text = "Use `a[1]` and\n```\nb[2]\n```\n"
    assert marker_filter.feed(text) + marker_filter.finish() == text


def test_what_cannot_be_traced_is_said_to_be_so() -> None:
    shown, answer = write("Bananas are yellow fruits.")
    assert answer.grounded == 0
    assert NOT_TRACED in shown
    assert shown.endswith("“The firewall listens on port 80.” [1]")
    assert answer.citations[0].quote == "The firewall listens on port 80."


def test_an_answer_that_claims_nothing_has_no_share() -> None:
    _, answer = write("Sure! What do you mean?")
    assert answer.grounded is None


def test_no_marker_breaks_a_code_block() -> None:
    passage = Passage("d", "c", "a.md", "", "Run:\n\n    nix-gc --all", 0, 20)
    writer = AnswerWriter(Evidence([passage]), QUESTION)
    text = "```sh\nnix-gc --all\n```"
    shown = writer.feed(text)
    tail, answer = writer.finish()
    assert shown + tail == text
    assert answer.sentences[0].citations == (1,)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_mark_of_a_quoted_line_is_taken_off(size: int) -> None:
    shown, answer = write("> The firewall listens on port 80.\n> Nix is a package manager.", size)
    assert shown == "The firewall listens on port 80. [1]\nNix is a package manager. [2]"
    assert answer.grounded == 1


def test_only_the_mark_at_a_line_start_is_taken_off() -> None:
    quotes = QuoteFilter()
    assert quotes.feed("> > a > b\n>c") == "> a > b\nc"


def test_a_model_that_repeats_itself_is_ended() -> None:
    writer = AnswerWriter(evidence(), QUESTION)
    said = ""
    given = 0
    while not writer.looping:
        said += writer.feed("The firewall listens on port 80. ")
        given += 1
        assert given < 10
    tail, answer = writer.finish()
    assert said + tail == answer.text == " ".join(["The firewall listens on port 80. [1]"] * 3)
    assert len(answer.sentences) == 3


def test_a_list_of_like_sentences_is_not_a_loop() -> None:
    writer = AnswerWriter(evidence(), QUESTION)
    for port, name in ((80, "web"), (22, "shell"), (25, "mail"), (53, "name"), (123, "time")):
        writer.feed(f"- The {name} server listens on port {port}.\n")
    writer.finish()
    assert not writer.looping


@given(
    st.lists(
        st.sampled_from(
            ["The firewall listens on port 80.", " ", "\n\n", "[1]", "[", "12", "`", "]", "Hm. "]
        ),
        max_size=12,
    ),
    st.integers(1, 7),
)
def test_a_stream_says_what_the_whole_says(pieces: list[str], size: int) -> None:
    text = "".join(pieces)
    whole, answer = write(text, size=max(1, len(text)))
    streamed, same = write(text, size=size)
    assert streamed == whole == answer.text
    assert same == answer
