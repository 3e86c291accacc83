"""The wire of a collection's settings."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from aistack.aidb.analysis import LANGUAGES
from aistack.aidb.collection_settings import FusionMethod
from aistack.aidb.near_duplicates import Collapse


class SettingsIn(BaseModel):
    """What to set; null, or nothing at all, is the value of the configuration."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    fusion: FusionMethod | None = Field(
        None, description="rrf: by reciprocal rank; dbsf: by the distribution of the scores"
    )
    rrf_k: float | None = Field(None, gt=0, le=1000)
    dense_weight: float | None = Field(None, gt=0, le=100)
    lexical_weight: float | None = Field(None, gt=0, le=100)
    bm25_k1: float | None = Field(None, ge=0, le=10)
    bm25_b: float | None = Field(None, ge=0, le=1)
    collapse: Collapse | None = Field(
        None,
        description="hits that say the same as a better one are left out and counted: exact"
        " (but for white space and case), near (a few words differ), or off",
    )
    rerank: bool | None = Field(
        None, description="whether searches are reranked that do not say so themselves"
    )
    language: str | None = Field(
        None,
        max_length=32,
        description="whose stemmer the lexical leg uses: a language of Snowball (german, french, …)"
        " or none; english where nothing is said. It cannot change once there are documents",
        examples=["german"],
    )

    @field_validator("language")
    @classmethod
    def _known(cls, language: str | None) -> str | None:
        if language is not None and language not in LANGUAGES:
            raise ValueError(f"is one of {', '.join(LANGUAGES)}")
        return language

    def given(self) -> dict[str, Any]:
        """What the body names, null included."""
        return self.model_dump(exclude_unset=True)


class CollectionUpdate(BaseModel):
    """Changes; what is not named stays as it is."""

    model_config = ConfigDict(extra="forbid")

    description: str | None = Field(None, max_length=2000)
    settings: SettingsIn = Field(default_factory=SettingsIn, examples=[{"fusion": "dbsf"}])


class SettingsOut(BaseModel):
    """What holds for searches of the collection: its own settings over the configuration."""

    fusion: FusionMethod
    rrf_k: float
    dense_weight: float
    lexical_weight: float
    bm25_k1: float
    bm25_b: float
    collapse: Collapse
    rerank: bool
    language: str
