"""What an upload may be, before anything is stored."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.aidb.documents import Upload, checked_content_type, checked_metadata, checked_upload
from aistack.service.errors import StackError, TooLarge, Unprocessable, UnsupportedMedia


def made(**members: Any) -> Upload:
    given_members: dict[str, Any] = {
        "collection": "default",
        "source": None,
        "title": None,
        "content_type": None,
        "content": b"words",
        "metadata": {},
        "key_id": "k",
        "limit": 1000,
    }
    return checked_upload(**{**given_members, **members})


def test_without_a_source_the_name_is_the_file_s_or_the_content_s() -> None:
    assert made(file_name="a.md").source == "a.md"
    assert made(file_name="a.md", source="b").source == "b"
    assert made().source == made().source
    assert made().source.startswith("sha256:")
    assert made(content=b"other").source != made().source


@pytest.mark.parametrize(
    ("given_type", "name", "kind"),
    [
        (None, None, "text/plain"),
        (None, "a.md", "text/markdown"),
        (None, "page.HTM", "text/html"),
        (None, "https://example.org", "text/plain"),
        (None, "main.rs", "text/x-rust"),
        (None, "src/Makefile", "text/x-source"),
        (None, "data.json", "application/json"),
        ("application/octet-stream", "flake.nix", "text/x-nix"),
        ("video/mp2t", "app.ts", "text/x-typescript"),
        ("text/plain", "a.py", "text/plain"),
        ("application/octet-stream", "a.pdf", "application/pdf"),
        ("text/html; charset=UTF-8", None, "text/html"),
        ("text/html; charset=iso-8859-1", None, "text/html; charset=iso-8859-1"),
        ("text/x-python", "a.py", "text/x-python"),
        ("text/x-python; charset=latin-1", None, "text/x-python; charset=latin-1"),
        ("text/x-unheard-of", "a.rb", "text/x-source"),
        ("text/x-unheard-of", "a.pdf", "text/plain"),
        ("text/x-unheard-of", None, "text/plain"),
        ("application/json", None, "application/json"),
        ("application/x-yaml", None, "application/yaml"),
        ("application/x-ndjson", None, "application/jsonl"),
        ("application/xhtml+xml", None, "text/html"),
    ],
)
def test_the_content_type_is_the_given_one_or_the_ending_s(
    given_type: str | None, name: str | None, kind: str
) -> None:
    assert checked_content_type(given_type, name) == kind


def test_what_nothing_reads_is_refused() -> None:
    for kind in ("image/png", "video/mp4", "nonsense"):
        with pytest.raises(UnsupportedMedia):
            made(content_type=kind)


def test_the_limit_is_of_bytes_and_inclusive() -> None:
    assert made(content=b"x" * 1000).content == b"x" * 1000
    with pytest.raises(TooLarge):
        made(content=b"x" * 1001)


@pytest.mark.parametrize(
    "members",
    [
        {"content": b""},
        {"content": b" \n"},
        {"content": b"\xef\xbb\xbf"},
        {"content": b"a\0b"},
        {"content": b"\xff\xfe\xfd"},
        {"source": "a\0"},
        {"source": "x" * 2049},
        {"source": "\ud800"},
        {"title": "\0"},
        {"title": "x" * 1001},
        {"collection": ""},
        {"collection": "a/b"},
        {"collection": "x" * 129},
    ],
)
def test_what_cannot_be_kept_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable) as caught:
        made(**members)
    assert caught.value.detail.endswith((".", "?"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=70), JSON, max_size=5))
def test_metadata_is_kept_as_it_is_or_refused_in_one_sentence(metadata: dict[str, Any]) -> None:
    refusal: StackError | None = None
    try:
        kept = checked_metadata(metadata)
    except StackError as error:
        refusal = error
    if refusal is not None:
        assert refusal.status == 422
        assert refusal.detail.startswith("metadata")
        return
    assert dict(kept) == metadata
    for value in kept.values():
        assert isinstance(value, str | bool | int | float | list)
        assert "\0" not in str(value)
