"""The terms that documents and queries are made of."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.aidb.analysis import (
    ANALYZER_VERSION,
    LANGUAGES,
    MAX_TERM_CHARS,
    analyze,
    analyzer_version,
)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The skies are flying", ["sky", "fli"]),
        ("wing's boundary-layer", ["wing", "boundary-layer", "boundari", "layer"]),
        ("foo_bar", ["foo_bar", "foo", "bar"]),
        ("NixOS nixos", ["nixo", "nix", "os", "nixo"]),
        ("sha256", ["sha256", "sha", "256"]),
        ("naïve CAFÉ", ["naiv", "cafe"]),
        ("Straße", ["strass"]),
        ("ﬁle ①", ["file", "1"]),
        ("検索エンジン", ["検索", "索エ", "エン", "ンジ", "ジン"]),
        ("किताबें", ["किताबें"]),
        ("to be or not to be", []),
        ("  ,.;!  ", []),
    ],
)
def test_terms_of(text: str, terms: list[str]) -> None:
    assert analyze(text) == terms


def test_an_identifier_is_found_whole_and_by_each_of_its_parts() -> None:
    stored = set(analyze("Set services.nginx.enableACME to true."))
    for query in ("services.nginx.enableACME", "nginx", "services", "enable", "acme", "enableacme"):
        assert set(analyze(query)) & stored, query
    assert "services.nginx.enableacme" in analyze("SERVICES.NGINX.enableACME")


@pytest.mark.parametrize("language", LANGUAGES)
def test_identifiers_are_found_in_every_language(language: str) -> None:
    stored = set(analyze("Set services.nginx.enableACME, foo_bar and x86_64-linux.", language))
    for query in ("services.nginx.enableACME", "nginx", "enableacme", "enable", "foo_bar", "bar"):
        assert set(analyze(query, language)) & stored, query
    assert {"services.nginx.enableacme", "foo_bar", "x86_64-linux"} <= stored


@pytest.mark.parametrize(
    ("language", "text", "terms"),
    [
        ("german", "Die Häuser des Bürgermeisters", ["die", "haus", "des", "burgermeist"]),
        ("german", "haeuser Straßen STRASSE", ["haus", "strass", "strass"]),
        ("french", "les élèves eleves", ["le", "elev", "elev"]),
        ("none", "The flying Häuser", ["the", "flying", "hauser"]),
        ("none", "検索エンジン", ["検索", "索エ", "エン", "ンジ", "ジン"]),
    ],
)
def test_words_are_stemmed_in_their_language(language: str, text: str, terms: list[str]) -> None:
    assert analyze(text, language) == terms


def test_each_language_has_an_identity_of_its_own() -> None:
    versions = {analyzer_version(language) for language in LANGUAGES}
    assert len(versions) == len(LANGUAGES)
    assert analyzer_version("english") == ANALYZER_VERSION


def test_what_is_too_long_is_cut_the_same_way_on_both_sides() -> None:
    digest = "deadbeef" * 40
    assert analyze(digest) == analyze(f"see {digest}!")[1:]
    assert all(len(term) <= MAX_TERM_CHARS for term in analyze(f"{digest} a.{digest}"))


@given(st.text(max_size=400))
def test_terms_are_bounded_never_empty_and_found_again(text: str) -> None:
    terms = analyze(text)
    assert terms == analyze(text)
    assert all(0 < len(term) <= MAX_TERM_CHARS for term in terms)
    assert not any("\0" in term for term in terms)


def test_threads_do_not_disturb_each_other() -> None:
    words = [f"relational{i} organizations{i} controlling{i}" for i in range(400)]
    expected = [analyze(one) for one in words]
    wrong: list[str] = []

    def work(offset: int) -> None:
        for place in range(len(words)):
            at = (place * 7 + offset) % len(words)
            if analyze(words[at]) != expected[at]:
                wrong.append(words[at])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_version_names_rules_and_behaviour() -> None:
    rules, _, behaviour = ANALYZER_VERSION.partition("-")
    assert rules.isdigit()
    assert len(behaviour) == 8
