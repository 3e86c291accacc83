"""What a chat request may ask of which model. Every refusal is a 400 that names the field."""

from __future__ import annotations

from typing import Any

import orjson

from aistack.coordinator.prompts import Turn
from aistack.coordinator.schemas import ChatRequest, Message
from aistack.service.errors import BadRequest, NotFound

LOCAL = "local"
AISTACK = "aistack"

# For the retrieval-augmented model: its answer is one text, made of what was retrieved.
_UNSUPPORTED = (
    "tools",
    "functions",
    "function_call",
    "tool_choice",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "response_format",
    "audio",
    "prediction",
    "web_search_options",
)
_NOT_FOR_LLAMA = frozenset(
    {
        "model", "stream", "aistack", "user", "metadata", "store", "service_tier",
        "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "verbosity",
    }
)  # fmt: skip


# Greedy decoding of a small model repeats itself to the end; llama.cpp's DRY sampler breaks such a
# loop. It looks at no more than this many tokens back, so quoting a passage costs nothing.
_NO_LOOPS = {"dry_multiplier": 0.8, "dry_allowed_length": 8, "dry_penalty_last_n": 256}


# A small model goes on with the next question by itself.
_NO_NEXT_QUESTION = "\nQuestion:"


def check(request: ChatRequest) -> None:
    """Refuse what the named model cannot do. Raises BadRequest or NotFound."""
    if request.model not in (LOCAL, AISTACK):
        raise NotFound(
            f"The model {request.model[:100]!r} does not exist here; use 'local' or 'aistack'.",
            code="model_not_found",
            param="model",
        )
    for index, message in enumerate(request.messages):
        _check_message(index, message)
    for field in sorted(request.model_fields_set):
        _check_encodable(request, field)
    if request.modalities not in (None, ["text"]):
        raise _refuse("modalities", "only ['text'] can be answered")
    if request.model == LOCAL:
        if request.aistack is not None:
            raise _refuse("aistack", "the model 'local' retrieves nothing; use 'aistack'")
        return
    for field in _UNSUPPORTED:
        if getattr(request, field) not in (None, [], False, "none", {"type": "text"}):
            raise _refuse(field, "the model 'aistack' does not support it; 'local' may")
    if request.n not in (None, 1):
        raise _refuse("n", "the model 'aistack' gives one answer")
    last = request.messages[-1]
    if last.role != "user" or not text_of(last).strip():
        raise _refuse("messages", "the last message must be the user's question, and not empty")
    for index, message in enumerate(request.messages):
        if message.role in ("tool", "function") or message.tool_calls or message.function_call:
            raise _refuse(f"messages.{index}", "the model 'aistack' knows no tools")


def _check_message(index: int, message: Message) -> None:
    where = f"messages.{index}.content"
    if isinstance(message.content, list):
        for part in message.content:
            if part.type != "text":
                raise _refuse(where, f"parts of type {part.type!r} are not understood, only text")
            if part.text is None:
                raise _refuse(where, "a text part needs `text`")
    elif message.content is None and not (
        message.role == "assistant" and (message.tool_calls or message.function_call)
    ):
        raise _refuse(where, "is missing")


def _check_encodable(request: ChatRequest, field: str) -> None:
    """Refuse what JSON can spell and no other program could read again."""
    try:
        orjson.dumps(request.model_dump(include={field}, exclude_unset=True))
    except (TypeError, ValueError) as error:  # orjson's, and pydantic's for a depth without end
        raise BadRequest(
            f"{field}: has text that is not valid Unicode, a number of more than 64 bits, or is"
            " nested too deep.",
            param="aistack.filters" if field == "aistack" else field,
        ) from error


def _refuse(field: str, why: str) -> BadRequest:
    return BadRequest(f"{field}: {why}.", param=field, code="unsupported_parameter")


def text_of(message: Message) -> str:
    """The message's text, its parts joined."""
    if isinstance(message.content, list):
        return "\n".join(part.text or "" for part in message.content)
    return message.content or ""


def turns(request: ChatRequest) -> list[Turn]:
    """The conversation as text."""
    return [Turn(message.role, text_of(message)) for message in request.messages]


def answer_tokens(request: ChatRequest, default: int) -> int:
    """The bound of the answer that the request sets, or `default`."""
    return request.max_completion_tokens or request.max_tokens or default


def passed_on(request: ChatRequest) -> dict[str, Any]:
    """The body for llama.cpp: what the request set, without what only we understand."""
    body = request.model_dump(exclude_unset=True, exclude=set(_NOT_FOR_LLAMA))
    if "max_completion_tokens" in body:
        body["max_tokens"] = body.pop("max_completion_tokens")
    body["messages"] = [
        {**m.model_dump(exclude_none=True), "content": text_of(m)}
        if m.content is not None
        else m.model_dump(exclude_none=True)
        for m in request.messages
    ]
    return {key: value for key, value in body.items() if value is not None}


def sampling(request: ChatRequest) -> dict[str, Any]:
    """Sampling for the retrieval-augmented model: greedy unless the request says otherwise."""
    names = ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty")
    given = {name: value for name in names if (value := getattr(request, name)) is not None}
    return {"temperature": 0.0, "stop": [_NO_NEXT_QUESTION], **_NO_LOOPS, **given}
