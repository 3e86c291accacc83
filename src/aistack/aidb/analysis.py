"""Lexical analysis: text to the terms that BM25 counts, the same for chunks and for queries.

Text is compatibility-normalised and case-folded, accents on Latin letters are dropped and words are
stemmed by the Snowball stemmer of the collection's language; of English, stop words are left out. A
compound such as `services.nginx.enable`, `foo_bar`, `nix-shell` or `CamelCase` gives one term for
the whole and one for each part, so it is found by either, in every language. Runs of Chinese,
Japanese and Korean letters, which have no spaces between words, give overlapping bigrams.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import threading
import unicodedata
from functools import lru_cache
from typing import Final

import snowballstemmer
from snowballstemmer.english_stemmer import EnglishStemmer

#: Raised whenever the rules below would give other terms for the same text.
_RULES: Final = 1

#: Longer terms are cut here: they are hashes or encoded data, and a B-tree key is bounded.
MAX_TERM_CHARS: Final = 64

ENGLISH: Final = "english"
#: Words as they are.
NO_LANGUAGE: Final = "none"
#: The languages a collection may have: those that the stemmer knows. It has older algorithms for
#: English and Dutch as well, under the names of their author.
LANGUAGES: Final = (
    NO_LANGUAGE,
    *(one for one in sorted(snowballstemmer.algorithms()) if not one.endswith("porter")),
)

# Lucene's English set, short on purpose: what is left out can never be found again.
STOP_WORDS: Final = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is",
        "it", "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there",
        "these", "they", "this", "to", "was", "will", "with",
    }
)  # fmt: skip


def _combining_marks() -> str:
    # The vowels of Indic scripts are marks, which \w does not match.
    marks = (code for code in range(0x300, 0xFE30) if unicodedata.category(chr(code))[0] == "M")
    return "".join(map(chr, marks))


_WORD: Final = rf"(?:[^\W_]|[{_combining_marks()}])+"
_COMPOUND: Final = re.compile(rf"{_WORD}(?:[._\-/:@+]{{1,2}}{_WORD})*")
_CONNECTOR: Final = re.compile(r"[._\-/:@+]+")
_POSSESSIVE: Final = re.compile(r"['’]s\b", re.IGNORECASE)
_LATIN_ACCENT: Final = re.compile("(?<=[A-Za-z])[\u0300-\u036f]+")
# camelCase, HTTPServer and sha256, in that order.
_HUMP: Final = re.compile(
    r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])"
)
_UNSPACED: Final = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+")

_stemmers = threading.local()


@lru_cache(maxsize=65_536)
def _stem(word: str, language: str) -> str:
    # A stemmer keeps the word it works on in itself, so each thread has its own.
    stemmer = getattr(_stemmers, language, None)
    if stemmer is None:
        stemmer = EnglishStemmer() if language == ENGLISH else snowballstemmer.stemmer(language)
        setattr(_stemmers, language, stemmer)
    stem = str(stemmer.stemWord(word))
    # Stemmers of other languages read their accents, which go with the ending.
    return stem if language == ENGLISH else _fold(stem)


def _fold(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _LATIN_ACCENT.sub("", unicodedata.normalize("NFD", text)))


def _word_terms(word: str, terms: list[str], language: str) -> None:
    if not word.isascii() and _UNSPACED.search(word):
        position = 0
        for run in _UNSPACED.finditer(word):
            if run.start() > position:
                _word_terms(word[position : run.start()], terms, language)
            letters = run.group()
            terms.extend(letters[i : i + 2] for i in range(max(1, len(letters) - 1)))
            position = run.end()
        if position < len(word):
            _word_terms(word[position:], terms, language)
        return
    folded = word.casefold()
    if language == ENGLISH and folded in STOP_WORDS:
        return
    cut = folded[:MAX_TERM_CHARS]
    terms.append(cut if language == NO_LANGUAGE else _stem(cut, language)[:MAX_TERM_CHARS])


def analyze(text: str, language: str = ENGLISH) -> list[str]:
    """The terms of `text` in reading order, with repetitions; linear in the length of the text.

    `language` is one of LANGUAGES.
    """
    terms: list[str] = []
    early = language in (ENGLISH, NO_LANGUAGE)
    folded = _fold(text) if early else unicodedata.normalize("NFKC", text)
    if language == ENGLISH:
        folded = _POSSESSIVE.sub("", folded)
    for match in _COMPOUND.finditer(folded):
        compound = match.group()
        words = _CONNECTOR.split(compound)
        if len(words) > 1:
            whole = compound if early else _fold(compound)
            terms.append(whole.casefold()[:MAX_TERM_CHARS])
        for word in words:
            parts = _HUMP.split(word) if not word.islower() or not word.isalpha() else [word]
            # The whole is stemmed too, so that "NixOS" is found by "nixos".
            _word_terms(word, terms, language)
            if len(parts) > 1:
                for part in parts:
                    _word_terms(part, terms, language)
    return terms


# What the stemmer and the Unicode tables of this Python really do belongs to the identity: a newer
# stemmer must not be asked for terms that an older one stored.
_PROBE: Final = (
    "Generalizations of skies, dying flies; organizational probabilities' relational operators were"
    " controlling hopefully, fluently and namely: services.nginx.enableACME, foo_bar, HTTPServer2,"
    " x86_64-linux, naïve cafés, ﬁne ①, Straße, किताबें, 検索エンジン. argued, universal, evening,"
    " geology, later, inning, skis, exceed, analogically, bulldogs, bias, nixos, emerging, past"
)
ANALYZER_VERSION: Final = (
    f"{_RULES}-{hashlib.sha256(chr(0).join(analyze(_PROBE)).encode()).hexdigest()[:8]}"
)


@lru_cache
def analyzer_version(language: str) -> str:
    """What the terms of a document were made with; `language` is one of LANGUAGES."""
    if language == ENGLISH:
        return ANALYZER_VERSION
    made = [importlib.metadata.version("snowballstemmer"), *analyze(_PROBE, language)]
    return f"{_RULES}-{language}-{hashlib.sha256(chr(0).join(made).encode()).hexdigest()[:8]}"
