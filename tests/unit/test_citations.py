"""Which sentences get a citation: the labelled set, and each kind of contradiction by itself."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from aistack.coordinator.citations import Evidence, Passage, attribute, attribute_code, factual

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared" / "data"


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@cache
def passages() -> dict[str, Passage]:
    return {
        p["id"]: Passage(
            document_id=p["source"],
            chunk_id=p["id"],
            source=p["source"],
            title=p["title"],
            text=p["text"],
            char_start=p["char_start"],
            char_end=p["char_end"],
        )
        for p in _lines("attribution_passages.jsonl")
    }


def passage(text: str, title: str = "") -> Passage:
    return Passage("d", "c", "s.md", title, text, 100, 100 + len(text))


def supported(sentence: str, *texts: str) -> bool:
    return attribute(sentence, Evidence([passage(t) for t in texts])).support is not None


@pytest.mark.parametrize("split", ["tune", "held_out"])
def test_the_labelled_set_is_cited_precisely(split: str) -> None:
    rows = [row for row in _lines("attribution.jsonl") if row["split"] == split]
    counts = Counter(row["label"] for row in rows)
    assert counts["supported"] >= 15
    assert counts["unsupported"] >= 10
    assert counts["contradicted"] >= 12
    cited: Counter[str] = Counter()
    right = 0
    wrong = []
    for row in rows:
        given = [passages()[key] for key in row["passages"]]
        found = attribute(row["answer"], Evidence(given)).support
        if found is None:
            continue
        cited[row["label"]] += 1
        if given[found.passage].chunk_id == row["expected"]:
            right += 1
        else:
            wrong.append((row["id"], row["answer"]))
    precision = right / cited.total()
    recall = right / counts["supported"]
    print(f"{split}: precision {precision:.3f} recall {recall:.3f} of {dict(counts)}; {wrong}")
    assert cited["contradicted"] == 0, wrong
    assert precision >= 0.95, wrong
    assert recall >= 0.7


def test_the_passages_are_quoted_letter_by_letter() -> None:
    if not SHARED.is_dir():
        pytest.skip("the documents that the passages are from are not beside the checkout")
    for given in passages().values():
        text = (SHARED / given.source).read_text(encoding="utf-8")
        assert text[given.char_start : given.char_end] == given.text


FIREWALL = (
    "NixOS has a simple stateful firewall. The firewall listens on port 80. It is enabled by"
    " default. Requests time out after 90 seconds. It does not log refused packets."
)


@pytest.mark.parametrize(
    "sentence",
    [
        "The firewall listens on port 80.",
        "Requests time out after 90 seconds.",
        "The firewall is enabled by default.",
        "The firewall does not log refused packets.",
    ],
)
def test_what_the_passage_says_is_supported(sentence: str) -> None:
    assert supported(sentence, FIREWALL)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("number", "The firewall listens on port 8080."),
        ("unit", "Requests time out after 90 minutes."),
        ("opposite", "The firewall is disabled by default."),
        ("negation added", "The firewall does not listen on port 80."),
        ("negation dropped", "The firewall logs refused packets."),
        ("other name", "Debian has a simple stateful firewall."),
        ("stronger", "The firewall always listens on port 80."),
        ("one word more", "NixOS has a simple stateful firewall that scans mail."),
    ],
)
def test_a_change_that_turns_the_meaning_is_refused(kind: str, sentence: str) -> None:
    assert not supported(sentence, FIREWALL), kind


def test_an_exchange_of_two_statements_is_refused() -> None:
    text = "The server uses HTTP on port 80, while the client uses HTTPS on port 443."
    assert supported("The client uses HTTPS on port 443.", text)
    assert not supported("The client uses HTTP on port 80.", text)
    assert not supported("The client uses HTTPS on port 80.", text)


def test_a_comparison_the_other_way_round_is_refused() -> None:
    text = "Building from source is often easier than using executables."
    assert supported("Building from source is easier than using executables.", text)
    assert not supported("Using executables is easier than building from source.", text)


def test_a_made_up_option_is_refused_however_like_the_rest() -> None:
    text = "Set `services.openssh.enable` to allow logins."
    assert supported("Set `services.openssh.enable` to allow logins.", text)
    assert not supported("Set `services.sshd.enable` to allow logins.", text)


def test_the_tightest_passage_is_the_quote() -> None:
    evidence = Evidence([passage("Cats sleep a lot. Dogs bark at strangers. Birds sing.")])
    found = attribute("Dogs bark at strangers.", evidence).support
    assert found is not None
    text = evidence.passages[0].text
    assert text[found.start : found.end] == "Dogs bark at strangers."


def test_code_is_supported_line_by_line() -> None:
    evidence = Evidence([passage("Run:\n\n```sh\n$ nix-collect-garbage -d\n```\n")])
    assert attribute_code("```sh\nnix-collect-garbage -d\n```", evidence).support is not None
    assert attribute_code("```sh\nnix-collect-garbage -x\n```", evidence).support is None


@pytest.mark.parametrize("text", ["Sure!", "Is that so?", "I hope this helps you.", "Yes."])
def test_chatter_claims_nothing(text: str) -> None:
    assert not factual(text)


def test_no_passages_no_support() -> None:
    assert attribute("The firewall is enabled.", Evidence([])).support is None
