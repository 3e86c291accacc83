"""The wire: OpenAI's chat completions, and what aistack adds to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_TOKENS = 131_072
MAX_MESSAGES = 512


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    return text


Text = Annotated[str, AfterValidator(_no_nul)]


class Strict(BaseModel):
    """Unknown fields are refused, by name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Called(Strict):
    """A function that the model called, and with what; `arguments` is JSON in a string."""

    name: Text = Field(min_length=1, max_length=256)
    arguments: Text


class ToolCall(Strict):
    """One call in a message of the assistant."""

    id: Text | None = Field(None, max_length=256)
    index: int | None = Field(None, ge=0, lt=2**31, description="as a stream numbers it; unused")
    type: Literal["function"] = "function"
    function: Called


class Function(Strict):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Text = Field(min_length=1, max_length=256)
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """One of the tools; functions are all that is understood."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """The name of one of the functions."""

    name: Text = Field(min_length=1, max_length=256)


class ToolChoice(Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class ContentPart(BaseModel):
    """One part of a message; only text is understood, the rest is refused by name later."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(max_length=40)
    text: Text | None = None


class Message(Strict):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | Annotated[list[ContentPart], Field(min_length=1, max_length=64)] | None = None
    name: Text | None = Field(None, max_length=256)
    tool_calls: list[ToolCall] | None = Field(None, max_length=128)
    tool_call_id: Text | None = None
    function_call: Called | None = None
    refusal: Text | None = None
    audio: dict[str, Any] | None = None
    annotations: list[Any] | None = None
    reasoning_content: Text | None = None


class StreamOptions(Strict):
    """What a stream carries besides its deltas."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Retrieval(Strict):
    """aistack's extension of the request: where to look."""

    collection: Text | None = Field(None, min_length=1, max_length=200)
    top_k: int | None = Field(None, ge=1, le=20)
    filters: dict[str, Any] | None = Field(None, description="as in POST /v1/search")


class ChatRequest(Strict):
    """POST /v1/chat/completions: the fields that OpenAI's API knows, and `aistack`."""

    model: Text = Field(min_length=1, max_length=200, examples=["aistack"])
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=128)
    stop: Text | list[Text] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = Field(None, max_length=128)
    function_call: Literal["none", "auto"] | FunctionName | None = None
    user: Text | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    aistack: Retrieval | None = None


class CitationOut(BaseModel):
    """`quote` is exactly `GET /v1/documents/{document_id}/text` from char_start to char_end."""

    number: int
    document_id: str
    chunk_id: str
    source: str
    title: str
    quote: str
    char_start: int
    char_end: int
    page_start: int | None
    line_start: int | None
    score: float


class SentenceOut(BaseModel):
    """`content[start:end]` of the answer and the numbers of its citations."""

    text: str
    start: int
    end: int
    citations: list[int]


class RetrievalOut(BaseModel):
    """What the search found; `degraded` names what it had to go without."""

    hits: int
    took_ms: float
    degraded: list[str] = Field(default_factory=list)


class Extension(BaseModel):
    """aistack's part of an answer."""

    origin: Literal["local"] = "local"
    collection: str
    grounded: float | None = Field(
        description="share of the sentences that claim something and are supported by a passage"
    )
    not_in_documents: bool
    citations: list[CitationOut]
    sentences: list[SentenceOut]
    retrieval: RetrievalOut


class Usage(BaseModel):
    """Tokens as the model's server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Choice(BaseModel):
    """The one choice of an answer."""

    model_config = ConfigDict(extra="allow")

    index: int = 0
    message: dict[str, Any]
    finish_reason: str | None = "stop"


class Completion(BaseModel):
    """A whole answer; `local` passes on what the model's server adds."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    aistack: Extension | None = None


class ModelOut(BaseModel):
    """A model that can be named in a request."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelOut]
