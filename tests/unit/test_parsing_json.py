"""JSON, JSON Lines, YAML and TOML: the text is the source, blocks say where in it they are."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aistack.aidb import parsing
from aistack.aidb.parsing import ParsedDocument, ParseError, json_text
from aistack.aidb.parsing.json_text import GROUP, LARGE, MAX_CHECKED_CHARS, MAX_DEPTH


def parse(text: str, kind: str = "application/json") -> ParsedDocument:
    return parsing.parse(text.encode(), kind)


def labelled(document: ParsedDocument) -> list[tuple[str, str]]:
    return [(b.label, document.text[b.start : b.end].strip()) for b in document.blocks]


SERVICE = {"name": "web", "port": 80, "note": "words " * 40}


def test_members_and_elements_are_named_by_their_path() -> None:
    text = json.dumps(
        {"version": 1, "services": [{"name": "db"}, *[SERVICE] * 3], "odd key": {"a": SERVICE}},
        indent=1,
    )
    found = labelled(parse(text))
    assert [label for label, _ in found] == [
        *("", "$.services[0:1]", "$.services[1]", "$.services[2]", "$.services[3]", "$['odd key']"),
    ]
    assert found[0][1].startswith('{\n "version": 1')
    # What opens an array goes with its first element.
    assert found[1][1].startswith('"services": [')
    assert json.loads(found[2][1].rstrip().rstrip(",")) == SERVICE
    assert found[5][1].startswith('"odd key": {')


def test_small_ones_stand_together_and_say_which_they_are() -> None:
    numbers = list(range(1000))
    found = labelled(parse(json.dumps({"numbers": numbers, "end": True})))
    assert found[0][0].startswith("$.numbers[0:")
    seen: list[int] = []
    for label, words in found[:-1]:
        first, last = map(int, label.removeprefix("$.numbers[").rstrip("]").split(":"))
        assert first == len(seen)
        seen.extend(map(int, words.removeprefix('{"numbers": [').rstrip("], ").split(",")))
        assert last == len(seen)
        assert len(words) <= GROUP + 30
    assert seen == numbers
    assert found[-1][1] == '"end": true}'


values = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers()
    | st.text(max_size=400).filter(lambda text: "\0" not in text),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=12), inner, max_size=8)
    ),
    max_leaves=60,
)


@given(value=values, indent=st.sampled_from([None, 1, 4]), ascii_only=st.booleans())
def test_every_json_is_read_and_blocks_hold_all_of_it(
    value: object, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if "\ud800" <= max(text, default="") <= "\udfff":
        return
    document = parse(text)
    assert document.text == text
    position = 0
    for block in document.blocks:
        assert block.start == position < block.end
        assert block.line == 1 + text.count("\n", 0, block.start)
        position = block.end
    assert position == len(text)
    if len(document.blocks) > 1:
        assert len(text) > LARGE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1\n "b": 2}', "line 2, column 2: ',' or '}' is expected, not '\"'"),
        ("[1 2]", "line 1, column 4: ',' or ']' is expected, not '2'"),
        ('{"a" 1}', "line 1, column 6: ':' is expected"),
        ("{a: 1}", "line 1, column 2: a key in double quotes is expected, not 'a'"),
        ("[1,", "line 1, column 4: a value is expected, but the text ends"),
        ('["a]', "line 1, column 2: a string that ends"),
        ('["\t"]', "control characters"),
        ("[NaN]", "line 1, column 2: a value"),
        ("[,]", "line 1, column 2: a value"),
        ("01", "column 2: the end"),
        ('{"a": 1} x', "line 1, column 10: the end is expected, not 'x'"),
        ("[" * (MAX_DEPTH + 1), f"deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_is_not_json_is_refused_at_its_place(text: str, words: str) -> None:
    for read in (parsing.parse, parsing.check):
        with pytest.raises(ParseError, match=r"not valid JSON|nested") as caught:
            read(text.encode(), "application/json")
        assert words in caught.value.detail


def test_settings_with_comments_are_read() -> None:
    text = '// what\n{"a": [1, 2,], /* why */ "b": "// no",}\n'
    assert labelled(parse(text)) == [("", text.strip())]
    parsing.check(text.encode(), "application/json")


def test_records_are_one_a_line() -> None:
    text = '{"a": 1}\n\n{"b": "x"}\n3\n'
    document = parse(text, "application/jsonl")
    assert [(b.line, text[b.start : b.end]) for b in document.blocks] == [
        (1, '{"a": 1}\n'), (3, '{"b": "x"}\n'), (4, "3\n"),
    ]  # fmt: skip
    for bad, place in [
        ("1\n{a}\n", "line 2, column 2"),
        ("[1\n]\n", "line 2"),
        ("1 2\n", "line 1"),
    ]:
        for read in (parsing.parse, parsing.check):
            with pytest.raises(ParseError, match=place):
                read(bad.encode(), "application/jsonl")


@pytest.mark.parametrize(
    "unit", ["[", "[1,", '{"a":', '"', "1", "\\", '["', "{", "//", "/*", "/* */", '"\\u00', "[{"]
)
def test_hostile_input_is_refused_in_linear_time(unit: str) -> None:
    content = (unit * ((MAX_CHECKED_CHARS - 1) // len(unit))).encode()
    began = time.thread_time()
    with pytest.raises(ParseError):
        parsing.check(content + b"x", "application/json")
    # The worst takes .7 s; quadratic behaviour would take minutes.
    assert time.thread_time() - began < 15


def test_nesting_at_the_limit_is_read() -> None:
    depth = MAX_DEPTH
    text = '{"x":1,"a":' * depth + "1" + "}" * depth
    document = parse(text)
    assert document.blocks[-1].end == len(text)
    assert document.blocks[-1].label.startswith("….a")
    assert all(len(block.label) <= 200 for block in document.blocks)


def test_a_long_text_is_not_built_while_its_sender_waits() -> None:
    text = "[" + "1," * (MAX_CHECKED_CHARS // 2) + "x]"
    parsing.check(text.encode(), "application/json")
    with pytest.raises(ParseError, match="not valid JSON at line 1, column 1000002"):
        parse(text)
    short = text[-1000:].replace("1", "[1", 1)
    with pytest.raises(ParseError, match="not valid JSON at line 1"):
        parsing.check(short.encode(), "application/json")


def test_a_long_key_is_not_read_for_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []

    class Names:
        def fullmatch(self, key: str) -> bool:
            looked_at.append(len(key))
            return True

    monkeypatch.setattr(json_text, "_NAME", Names())
    for length in (200, 200_000):
        looked_at.clear()
        key = "k" * length
        document = parse(json.dumps({key: [SERVICE] * 100, "b": {"c": [SERVICE] * 20}}))
        assert len(document.blocks) == 120
        # Once for all its labels, and never all of a longer one.
        assert [one for one in looked_at if one > 4] == ([200] if length == 200 else [])
        label = f"…{'k' * 196}[1]" if length == 200 else f"$['{'k' * 59}…'][1]"
        assert document.blocks[1].label == label


def test_records_are_read_without_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def label(_reader: object, last: str) -> str:
        made.append(last)
        return last

    monkeypatch.setattr(json_text._Reader, "_label", label)
    record = json.dumps({"a": [SERVICE] * 20})
    assert parse(record).blocks
    assert made
    made.clear()
    assert len(parse(f"{record}\n" * 3, "application/jsonl").blocks) == 3
    parsing.check(f"{record}\n".encode(), "application/jsonl")
    assert not made


def test_yaml_and_toml_are_cut_at_their_top() -> None:
    yaml = "# about a\na: 1\n\nb:\n  - x: 1\n    c: |\n      d: text\n---\n'q r': 2\n"
    assert labelled(parse(yaml, "application/yaml")) == [
        ("a", "# about a\na: 1"),
        ("b", "b:\n  - x: 1\n    c: |\n      d: text"),
        ("q r", "---\n'q r': 2"),
    ]
    toml = 'x = 1\n\n# The linter\n[tool.ruff]  # here\nline = """\n[a]\n"""\n[[servers]]\nn = 1\n'
    assert [label for label, _ in labelled(parse(toml, "application/toml"))] == [
        "", "[tool.ruff]", "[a]", "[[servers]]",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["application/yaml", "application/toml"])
@given(text=st.text(alphabet=st.sampled_from("ab: #-[]'\"\n\r\t.é"), max_size=300))
def test_settings_lose_nothing(kind: str, text: str) -> None:
    if not text.strip():
        return
    document = parse(text, kind)
    position = 0
    for block in document.blocks:
        assert position <= block.start < block.end
        assert not text[position : block.start].strip()
        assert block.line == 1 + text.count("\n", 0, block.start)
        position = block.end
    assert not text[position:].strip()
