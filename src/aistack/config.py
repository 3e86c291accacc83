"""One typed configuration for every service: a JSON or TOML file, then `AISTACK__…` variables.

An unknown key, a wrong type or a value out of bounds ends the start with one line that names the
key, the file and the fix. Secrets are never values here, only paths of files.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from aistack.config_section import Section
from aistack.config_vectors import VectorsConfig
from aistack.service.errors import StartError
from aistack.service.private_files import read_secret

ENV_PREFIX = "AISTACK__"


class Log(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class Tracing(Section):
    """Where spans go; without an endpoint trace ids are still made and passed on."""

    endpoint: str | None = Field(
        None, description="OTLP over gRPC: `unix:///run/x.sock` or `http://host:4317`"
    )
    sample_ratio: float = Field(1.0, ge=0, le=1)


class Auth(Section):
    """Files of the key store."""

    keys_file: Path = Path("/var/lib/aistack/keys/keys.json")
    pepper_file: Path = Path("/var/lib/aistack/keys/pepper")
    internal_key_file: Path | None = Field(
        None, description="the key that this service shows to the others"
    )


class LimitsOverride(Section):
    """Overrides of the limits in stack.toml; bytes and seconds."""

    body_bytes: int | None = Field(None, gt=0)
    concurrency: int | None = Field(None, gt=0)
    request_seconds: float | None = Field(None, gt=0)
    drain_seconds: float | None = Field(None, gt=0)
    start_seconds: float | None = Field(None, gt=0)
    hold_seconds: float = Field(
        10, ge=0, description="how long a request waits for a service that is starting"
    )


class Listen(Section):
    """Where to listen when systemd (or the supervisor) hands over no socket."""

    socket: Path | None = None
    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=0, le=65535)


class PostgresConfig(Section):
    """The database of documents."""

    host: str = Field("/run/postgresql", description="directory of the socket, or a host name")
    port: int = Field(5432, gt=0, le=65535)
    user: str = "aistack"
    database: str = "aistack"
    password_file: Path | None = None
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    pool_min: int = Field(2, ge=1)
    pool_max: int = Field(12, ge=1)
    timeout_seconds: float = Field(15, gt=0, description="of one statement or transaction")

    def conninfo(self) -> str:
        """A libpq connection string; the password is read from its file."""
        from psycopg.conninfo import make_conninfo

        parts: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "dbname": self.database,
            "connect_timeout": 5,
        }
        if not self.host.startswith("/"):
            parts["sslmode"] = self.sslmode
        if self.password_file is not None:
            parts["password"] = read_secret("postgres.password_file", self.password_file)
        return make_conninfo("", **parts)


class RedisConfig(Section):
    """The caches; nothing is lost when it is away."""

    url: str = "unix:///run/redis-aistack/redis.sock"
    password_file: Path | None = None
    timeout_seconds: float = Field(0.5, gt=0)


class Peers(Section):
    """Addresses of the other services: `unix:/path` or `http://host:port`."""

    embeddings: str = "unix:/run/aistack/embeddings.sock"
    aidb: str = "unix:/run/aistack/aidb.sock"
    coordinator: str = "unix:/run/aistack/coordinator.sock"


class LlamaConfig(Section):
    """The server of the local language model (llama.cpp)."""

    address: str = Field("unix:/run/aistack/llama.sock", description="`unix:/path` or `http://…`")
    timeout_seconds: float = Field(120, gt=0, description="to the first byte of an answer")
    concurrency: int = Field(8, gt=0, description="requests at once, waiting ones included")


class EmbeddingsConfig(Section):
    """The one embedding authority."""

    model: Path | None = Field(
        None, description="directory of the model; without it the packaged all-MiniLM-L6-v2"
    )
    revision: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 that the model's weights must have; another one ends the start",
    )
    encoder: Literal["auto", "onnx", "openvino", "torch"] = Field(
        "auto",
        description="`auto` measures what is installed at the first start, takes the fastest that"
        " keeps a mean cosine of .999 to fp32, and stays with it (`aistack models`)",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="`auto` is measured as the encoder is; `onnx` has fp32 only, and `torch` takes"
        " bf16 only when it is said",
    )
    dimension: int = Field(384, ge=1, le=4096, description="what the model must give")
    dimensions: tuple[int, ...] = Field(
        (),
        description="further dimensions that a request may ask for, beside those that the model's"
        " files declare; only for a model that was trained for it (Matryoshka)",
    )
    threads: int = Field(1, ge=1, le=64, description="cores of one forward pass")
    lanes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="forward passes at once; without it one on one or two cores and with torch,"
        " else one for each core but one, at most 4",
    )
    lane_cores: tuple[int, ...] = Field(
        (), description="cores that the lanes are bound to, one for each; for measurements"
    )
    load_seconds: float = Field(
        600,
        ge=0,
        description="how long a start may go on beyond limits.start_seconds while loading advances",
    )
    batch_tokens: int = Field(
        512,
        ge=256,
        description="tokens of one forward pass and what its padding costs; on a CPU more gains"
        " little and makes a short text wait longer (bench.embeddings), a GPU wants 16384 and more",
    )
    queue_texts: int = Field(2048, ge=1, description="texts waiting; beyond it 429")
    client_batch: int = Field(512, ge=1, description="texts of one request")
    text_bytes: int = Field(1_048_576, ge=1, description="bytes of one text")
    state_dir: Path = Field(
        Path("/var/lib/aistack/embeddings"), description="where the made graph is kept"
    )
    cache_seconds: int = Field(604_800, ge=0, description="life of a cached vector; 0 is off")
    rerank_model: Path | None = Field(
        None,
        description="directory of a cross-encoder with one label, for `/v1/rerank`; without it the"
        " route answers 501",
    )
    rerank_revision: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 that the cross-encoder's weights must have; another one ends the"
        " start",
    )
    rerank_encoder: Literal["auto", "onnx", "torch"] = Field(
        "auto",
        description="`onnx` takes BERT cross-encoders and a CPU, `torch` any and the first GPU;"
        " `auto` is `torch` where there is a GPU or the model is no BERT, else `onnx`",
    )
    rerank_documents: int = Field(256, ge=1, description="documents of one request to `/v1/rerank`")


class AidbConfig(Section):
    """Documents and retrieval."""

    dimension: int = Field(384, ge=1, le=4096, description="must agree with the embeddings service")
    document_bytes: int = Field(10_485_760, ge=1)
    chunk_tokens: int = Field(200, ge=32, le=8192)
    chunk_overlap: int = Field(32, ge=0)
    document_chunks: int = Field(
        20_000, ge=1, description="chunks of one document; one that makes more fails"
    )
    embedding_model: Path | None = Field(
        None, description="directory with the model's tokenizer; as embeddings.model"
    )
    workers: int = Field(
        32,
        ge=1,
        le=64,
        description="documents that are ingested at once, so that their texts keep the embeddings"
        " service busy; two of them are parsed at a time, and four are of more than 1 MiB",
    )
    dense_exact_below: int = Field(
        10_000, ge=0, description="chunks; from there on an HNSW index is built, and answers"
    )
    hnsw_ef_search: int = Field(
        200, ge=10, le=1000, description="candidates of an HNSW scan: more is slower and finds more"
    )
    vector_storage: Literal["vector", "halfvec"] = Field(
        "vector",
        description="what the HNSW index holds: the vectors (up to 2000 dimensions), or half-"
        "precision copies (up to 4000), half as large, whose hits are compared in full precision",
    )
    index_memory_mb: int = Field(
        0,
        ge=0,
        le=65536,
        description="MiB for building an HNSW index, which is fast while it fits (about 2 KiB for a"
        " vector of 384 dimensions); 0: as PostgreSQL's maintenance_work_mem says",
    )
    index_workers: int = Field(
        1, ge=0, le=32, description="processes that help to build an HNSW index"
    )
    retired_days: int = Field(
        7, ge=0, description="days until the vectors of a model that was replaced are dropped"
    )
    candidates: int = Field(100, ge=10, le=1000, description="hits taken from each leg")
    bm25_k1: float = Field(1.5, ge=0, le=10, description="how soon repetition stops to count")
    bm25_b: float = Field(0.75, ge=0, le=1, description="how much the length of a chunk counts")
    fusion: Literal["rrf", "dbsf"] = Field(
        "rrf", description="by reciprocal rank, or by the distribution of the scores"
    )
    rrf_k: float = Field(60, gt=0, le=1000, description="of reciprocal rank fusion")
    dense_weight: float = Field(1.0, gt=0, le=100)
    lexical_weight: float = Field(1.0, gt=0, le=100)
    collapse: Literal["off", "exact", "near"] = Field(
        "exact", description="chunks that say the same as a better hit: shown, or only counted"
    )
    rerank: bool = Field(
        False,
        description="whether the best hits of a search are reranked that does not say so itself;"
        " needs embeddings.rerank_model",
    )
    cache_seconds: int = Field(3600, ge=0, description="life of a cached search; 0 is off")
    cache_results: int = Field(
        10_000,
        ge=0,
        description="cached searches that are kept, the newest; one of ten hits is about 10 KiB",
    )


class CoordinatorConfig(Section):
    """Chat and answers."""

    collection: str = "default"
    top_k: int = Field(5, ge=1, le=20)
    context_tokens: int = Field(900, ge=100, description="of passages in the prompt")
    answer_tokens: int = Field(256, ge=1)
    relevance_floor: float = Field(
        0.42, ge=-1, le=1, description="best cosine below which nothing is answered"
    )


class Config(BaseSettings):
    """Every section. A service reads its own and the shared ones."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        case_sensitive=False,
    )

    log: Log = Log()
    tracing: Tracing = Tracing()
    auth: Auth = Auth()
    limits: LimitsOverride = LimitsOverride()
    listen: Listen = Listen()
    postgres: PostgresConfig = PostgresConfig()
    redis: RedisConfig = RedisConfig()
    peers: Peers = Peers()
    llama: LlamaConfig = LlamaConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    aidb: AidbConfig = AidbConfig()
    vectors: VectorsConfig = VectorsConfig()
    coordinator: CoordinatorConfig = CoordinatorConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables over the file; no dotenv, no secrets directory."""
        return (EnvSettingsSource(settings_cls), init_settings)


def load_config(path: Path | None) -> Config:
    """The configuration of this process. Raises StartError with one line."""
    origin = str(path) if path else "built-in defaults"
    data: dict[str, Any] = {}
    if path is not None:
        data = read_table(path)
    sections = set(Config.model_fields)
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX):
            section = name[len(ENV_PREFIX) :].split("__")[0].lower()
            if section not in sections:
                raise StartError(
                    f"environment: {name} is not a setting: there is no section {section!r};"
                    f" use one of {', '.join(sorted(sections))}"
                )
    try:
        return Config(**data)
    except ValidationError as error:
        raise StartError(explain(error, data, origin)) from None


def read_table(path: Path) -> dict[str, Any]:
    """A JSON or TOML file as a table. Raises StartError with one line."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StartError(
            f"{path}: cannot be read ({error.strerror}): give a readable file with --config"
        ) from error
    try:
        toml = path.suffix == ".toml"
        data = tomllib.loads(raw.decode("utf-8")) if toml else orjson.loads(raw)
    except (ValueError, UnicodeDecodeError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise StartError(f"{path}: not valid {kind} ({error}): mend the file") from error
    if not isinstance(data, dict):
        raise StartError(f"{path}: a table of sections is wanted, not a {type(data).__name__}")
    return data


def explain(error: ValidationError, data: Mapping[str, Any], origin: str) -> str:
    """The first fault in one line: where, what, and the fix."""
    fault = error.errors(include_url=False)[0]
    location = [str(part) for part in fault["loc"]]
    key = ".".join(location)
    variable = ENV_PREFIX + "__".join(location).upper()
    where = f"environment ({variable})" if variable in os.environ else origin
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        known = ", ".join(sorted(_known_keys(location[:-1])))
        fix = f"no such key; remove it or use one of: {known}"
    else:
        message = fault["msg"]
        fix = f"{message[0].lower()}{message[1:]}; it is {fault['input']!r}"
    return f"{where}: {key}: {fix}{more}"


def _known_keys(path: list[str]) -> set[str]:
    model: type[BaseModel] = Config
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return set()
        model = annotation
    return set(model.model_fields)
