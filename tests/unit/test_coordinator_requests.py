"""What may be asked of which model, and what is searched for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from aistack.coordinator import requests
from aistack.coordinator.evidence import Passage
from aistack.coordinator.retrieval import Retrieved, relevant, search_query
from aistack.coordinator.schemas import ChatRequest
from aistack.service.errors import BadRequest, NotFound

HELLO = [{"role": "user", "content": "Hello there"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
LONG = 10**30
HALF = "\ud800"


def request(**body: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "aistack", "messages": HELLO, **body})


BAD_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {}}}


def _calls(call: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [call]}


def test_a_plain_question_is_accepted() -> None:
    requests.check(request())
    requests.check(request(model="local"))


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound) as refused:
        requests.check(request(model="gpt-4"))
    assert refused.value.code == "model_not_found"


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [{"role": "king", "content": "x"}]},
        {"messages": [{"role": "user", "content": "a\0b"}]},
        {"max_tokens": 0},
        {"max_tokens": 10**9},
        {"temperature": 3},
        {"wishes": 3},
        {"messages": [{"role": "user", "content": "x", "colour": "red"}]},
        {"aistack": {"top_k": 1000}},
        {"aistack": {"where": "x"}},
        {"stream": "maybe"},
    ],
)
def test_nonsense_is_refused_by_the_schema(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        request(**body)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("tools", {"tools": [TOOL]}),
        ("functions", {"functions": [{"name": "f"}]}),
        ("n", {"n": 2}),
        ("logprobs", {"logprobs": True}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("modalities", {"modalities": ["audio"]}),
        ("messages", {"messages": [*HELLO, {"role": "assistant", "content": "Hi"}]}),
        ("messages", {"messages": [{"role": "user", "content": "  "}]}),
        ("messages.0.content", {"messages": [{"role": "user"}]}),
        (
            "messages.0.content",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        ),
    ],
)
def test_what_aistack_cannot_do_is_refused_by_name(field: str, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        requests.check(request(**body))
    assert refused.value.param == field


def test_local_passes_tools_and_more_answers() -> None:
    asked = request(model="local", tools=[TOOL], n=2, max_completion_tokens=7)
    requests.check(asked)
    body = requests.passed_on(asked)
    assert body["tools"] == [TOOL]
    assert body["n"] == 2
    assert body["max_tokens"] == 7
    assert "model" not in body


def test_local_takes_no_retrieval() -> None:
    with pytest.raises(BadRequest):
        requests.check(request(model="local", aistack={"collection": "x"}))


def test_text_parts_are_joined() -> None:
    asked = request(messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}])
    assert requests.turns(asked)[0].content == "a\na"


def test_aistack_is_greedy_unless_asked() -> None:
    assert requests.sampling(request())["temperature"] == 0
    assert requests.sampling(request(temperature=1))["temperature"] == 1


SSH = "How do I enable SSH?"
CHANNEL = "Which channel branch should macOS users follow?"


@pytest.mark.parametrize(
    ("turns", "query"),
    [
        ([SSH], SSH),
        ([SSH, "And how do I undo it?"], f"{SSH}\nAnd how do I undo it?"),
        ([SSH, "Why?"], f"{SSH}\nWhy?"),
        (["Hi", CHANNEL], CHANNEL),
    ],
)
def test_a_follow_up_is_searched_with_what_it_follows(turns: list[str], query: str) -> None:
    assert search_query(turns) == query


def _found(text: str, cosine: float | None) -> Retrieved:
    return Retrieved((Passage("d", "c", "s", "", text, 0, len(text)),), cosine, 1.0)


@pytest.mark.parametrize(
    ("text", "cosine", "answer"),
    [
        ("anything", 0.5, True),
        ("about the firewall port", 0.35, True),
        ("about bananas", 0.35, False),
        ("about the firewall port", 0.1, False),
        ("about the firewall port", None, True),
        ("about bananas", None, False),
    ],
)
def test_below_the_floor_only_the_words_can_tell(
    text: str, cosine: float | None, answer: bool
) -> None:
    assert relevant("firewall port", _found(text, cosine), 0.42) is answer


def test_nothing_found_is_not_relevant() -> None:
    assert not relevant("firewall", Retrieved((), None, 1.0), -1.0)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("tools.0", {"tools": [{"a": 1}]}),
        ("tools.0.function", {"tools": [{"type": "function"}]}),
        ("tools.0.type", {"tools": [{**TOOL, "type": "custom"}]}),
        ("tool_choice", {"tool_choice": "sometimes"}),
        ("tool_choice", {"tool_choice": {"a": 1}}),
        ("functions.0.name", {"functions": [{}]}),
        ("function_call", {"function_call": {"a": 1}}),
        ("messages.1.tool_calls.0", {"messages": [*HELLO, _calls({"a": 1})]}),
        ("messages.1.tool_calls.0.function.arguments", {"messages": [*HELLO, _calls(BAD_CALL)]}),
        ("temperature", {"temperature": float("nan")}),
    ],
)
def test_tools_that_the_model_server_could_not_read_are_refused(
    field: str, body: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError) as refused:
        request(model="local", **body)
    places = [".".join(str(part) for part in fault["loc"]) for fault in refused.value.errors()]
    assert any(place.startswith(field) for place in places), places


def test_good_tools_pass() -> None:
    choice = {"type": "function", "function": {"name": "f"}}
    asked = request(
        model="local", tools=[TOOL], tool_choice=choice, messages=[*HELLO, _calls(CALL)]
    )
    requests.check(asked)
    body = requests.passed_on(asked)
    assert (body["tools"], body["tool_choice"]) == ([TOOL], choice)
    assert body["messages"][1] == {"role": "assistant", "tool_calls": [CALL]}


@pytest.mark.parametrize("bad", [HALF, LONG, -LONG])
def test_what_no_other_program_could_read_is_refused(bad: Any) -> None:
    parameters = {"type": "object", "default": {"deep": [bad]}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    given: list[tuple[str, str, dict[str, Any]]] = [
        ("tools", "local", {"tools": [tool]}),
        ("response_format", "local", {"response_format": {"schema": bad}}),
        ("aistack.filters", "aistack", {"aistack": {"filters": {"a": {"eq": bad}}}}),
        ("metadata", "aistack", {"metadata": {"a": bad}}),
    ]
    for param, model, body in given:
        with pytest.raises(BadRequest) as refused:
            requests.check(request(model=model, **body))
        assert refused.value.param == param


def test_half_a_character_in_a_key_is_refused() -> None:
    with pytest.raises((BadRequest, ValidationError)):
        requests.check(request(model="local", logit_bias={HALF: 1.0}))
    with pytest.raises(BadRequest):
        requests.check(request(aistack={"filters": {HALF: {"eq": 1}}}))


def test_nesting_without_end_is_refused() -> None:
    deep: Any = 1
    for _ in range(600):
        deep = [deep]
    with pytest.raises(BadRequest):
        requests.check(request(model="local", response_format={"a": deep}))
