"""Files of labels: what is read, and one line for each thing wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aistack.evaluation.labels import BadLabels, read_jsonl, read_trec
from aistack.evaluation.metrics import Grades

GOOD = '{"query": "q", "relevant": {"a": 1}}'


def jsonl(directory: Path, *lines: str) -> Path:
    path = directory / "labels.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_json_lines_are_read_with_their_gains(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        '\ufeff{"query": "how?", "relevant": {"a.md": 1, "b.md": 3}}',
        "",
        '{"id": 7, "query": "how?", "relevant": {"c.md": 2}, "note": "mine"}',
    )
    read = read_jsonl(path, Grades.parse("1=2,2=1,3=0"))
    assert [(one.id, one.query) for one in read.queries] == [("how?", "how?"), ("7", "how?")]
    assert [dict(one.gains) for one in read.queries] == [{"a.md": 2.0, "b.md": 0.0}, {"c.md": 1.0}]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "it is not JSON: Expecting property name"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it is not an object"),
        ('{"relevant": {"a": 1}}', '"query" must be text'),
        ('{"query": " ", "relevant": {"a": 1}}', '"query" must be text that is not empty'),
        (json.dumps({"query": "x" * 4097, "relevant": {"a": 1}}), "4097 characters; at most 4096"),
        ('{"query": "\\u0000", "relevant": {"a": 1}}', "NUL"),
        ('{"query": "\\ud800", "relevant": {"a": 1}}', "not Unicode"),
        ('{"query": "x"}', '"relevant" must be an object'),
        ('{"query": "x", "relevant": ["a"]}', '"relevant" must be an object'),
        ('{"query": "x", "relevant": {}}', '"relevant" must be an object'),
        ('{"query": "x", "relevant": {"a": 0}}', "every gain is 0"),
        ('{"query": "x", "relevant": {"a": true}}', "the grade of 'a' is true, not a number"),
        ('{"query": "x", "relevant": {"a": "1"}}', "the grade of 'a' is \"1\", not a number"),
        ('{"query": "x", "relevant": {"a": NaN}}', "is not between"),
        ('{"query": "x", "relevant": {"a": 1' + "0" * 400 + "}}", "is not between"),
        ('{"query": "x", "relevant": {"": 1}}', "cannot be a source"),
        ('{"query": "x", "relevant": {"\\ud800": 1}}', "cannot be a source"),
        (json.dumps({"query": "x", "relevant": {"ü" * 1025: 1}}), "cannot be a source"),
        ('{"query": "q", "relevant": {"b": 1}}', "'q' was on line 1 already"),
        ('{"id": [], "query": "x", "relevant": {"b": 1}}', '"id" must be text'),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    path = jsonl(tmp_path, GOOD, line)
    with pytest.raises(BadLabels) as refused:
        read_jsonl(path, Grades())
    assert len(refused.value.faults) == 1
    said = str(refused.value.faults[0])
    assert said.startswith(f"{path}:2: ")
    assert words in said
    assert "\n" not in said


def test_every_fault_of_a_file_is_found(tmp_path: Path) -> None:
    with pytest.raises(BadLabels) as refused:
        read_jsonl(jsonl(tmp_path, "x", GOOD, "{}", "[]"), Grades())
    assert [fault.line for fault in refused.value.faults] == [1, 3, 4]


def test_a_grade_that_the_map_has_not_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(BadLabels, match=r":1: 'a': grade 1 is not one of 2, 3"):
        read_jsonl(jsonl(tmp_path, GOOD), Grades.parse("2=1,3=2"))


def test_bytes_that_are_no_text_and_an_empty_file_are_faults(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_bytes(GOOD.encode() + b"\n\xff\n")
    with pytest.raises(BadLabels, match=":2: it is not UTF-8"):
        read_jsonl(path, Grades())
    with pytest.raises(BadLabels, match=":1: there is no query"):
        read_jsonl(jsonl(tmp_path), Grades())


def trec(directory: Path, qrels: str, topics: str) -> tuple[Path, Path]:
    (directory / "qrels").write_text(qrels, encoding="utf-8")
    (directory / "topics").write_text(topics, encoding="utf-8")
    return directory / "qrels", directory / "topics"


TOPICS = [
    "1\thow are keys made?\n2\tnothing\n",
    # As TREC-8 has them: elements are not closed.
    "<top>\n<num> Number: 1\n<title> how are\nkeys made?\n<desc> Description:\n</top>\n"
    "<top>\n<num> Number: 2\n<title> nothing\n</top>\n",
    "<TOP><NUM>1</NUM><TITLE>how are keys made?</TITLE></TOP>"
    "<top><num>2</num><title>nothing</title></top>",
]


@pytest.mark.parametrize("topics", TOPICS)
def test_trec_judgments_are_read_with_either_form_of_topics(tmp_path: Path, topics: str) -> None:
    read = read_trec(*trec(tmp_path, "1 0 a 2\n1 0 b -1\n\n2 0 a 0\n", topics), Grades())
    assert [(one.id, one.query, dict(one.gains)) for one in read.queries] == [
        ("1", "how are keys made?", {"a": 2.0, "b": 0.0})
    ]
    assert read.unjudged == 1


@pytest.mark.parametrize(
    ("qrels", "topics", "words"),
    [
        ("1 0 a 1\n1 0 b\n", "1\tq\n", "qrels:2: 3 fields; a judgment is"),
        ("1 0 a 1\n9 0 b 1\n", "1\tq\n", "qrels:2: there is no topic '9'"),
        ("1 0 a 1\n1 0 a 2\n", "1\tq\n", "qrels:2: document 'a' is judged twice"),
        ("1 0 a 1\n1 0 b high\n", "1\tq\n", "qrels:2: the grade 'high' is not a number"),
        ("1 0 a 0\n", "1\tq\n", "qrels:1: there is no query with a relevant document"),
        ("1 0 a 1\n", "1\tq\nwords\n", "topics:2: a topic is"),
        ("1 0 a 1\n", "1\tq\n1\tr\n", "topics:2: topic '1' is there twice"),
        ("1 0 a 1\n", "1\tq\n2\t\n", 'topics:2: "query" must be text'),
    ],
)
def test_a_bad_line_of_trec_is_named_with_its_file(
    tmp_path: Path, qrels: str, topics: str, words: str
) -> None:
    with pytest.raises(BadLabels) as refused:
        read_trec(*trec(tmp_path, qrels, topics), Grades())
    assert [words in str(fault) for fault in refused.value.faults] == [True]


def test_the_digest_is_of_queries_and_gains_in_any_order(tmp_path: Path) -> None:
    other = '{"query": "r", "relevant": {"b": 1, "a": 2}}'
    one = read_jsonl(jsonl(tmp_path, GOOD, other), Grades()).digest
    assert read_jsonl(jsonl(tmp_path, other, GOOD), Grades()).digest == one
    assert read_jsonl(jsonl(tmp_path, GOOD), Grades()).digest != one
