"""The `openai` package against the front door: embeddings, chat, streaming, models, errors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openai
import pytest

from fix_stack import RunningStack


@pytest.fixture
def sdk(stack: RunningStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=stack.base_url + "/v1", api_key=stack.key, max_retries=0, timeout=120
    ) as client:
        yield client


def test_models_of_all_kinds_are_listed(sdk: openai.OpenAI) -> None:
    names = {model.id for model in sdk.models.list()}
    assert {"local", "aistack", "all-minilm-l6-v2"} <= names


def test_embeddings_as_floats_and_base64_are_the_same(sdk: openai.OpenAI) -> None:
    texts = ["a cat sits on the mat", "stock prices fell"]
    packed = sdk.embeddings.create(model="all-minilm-l6-v2", input=texts)
    plain = sdk.embeddings.create(model="all-minilm-l6-v2", input=texts, encoding_format="float")
    first = np.array([row.embedding for row in packed.data])
    second = np.array([row.embedding for row in plain.data])
    assert first.shape == (2, 384)
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert packed.usage.prompt_tokens == plain.usage.prompt_tokens > 4


def test_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="local", messages=[{"role": "user", "content": "Say hello."}], max_tokens=12
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12


@pytest.mark.parametrize("model", ["local", "aistack"])
def test_stream(sdk: openai.OpenAI, model: str) -> None:
    sdk_stream = sdk.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, finished, usage = "", [], None
    for chunk in sdk_stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if choice.finish_reason:
                finished.append(choice.finish_reason)
    assert text.strip()
    assert len(finished) == 1
    assert usage is not None


def test_wrong_key_is_an_authentication_error(stack: RunningStack) -> None:
    with (
        openai.OpenAI(base_url=stack.base_url + "/v1", api_key="ais_no_no", max_retries=0) as bad,
        pytest.raises(openai.AuthenticationError),
    ):
        bad.models.list()


def test_errors_are_those_the_package_knows(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        sdk.embeddings.create(model="no-such-model", input="x")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        sdk.embeddings.create(model="all-minilm-l6-v2", input=[[1, 2, 3]])
    with pytest.raises(openai.BadRequestError):
        sdk.chat.completions.create(model="local", messages=[])
