"""A run: every labelled query asked in some modes, scored, stored as JSON; and two runs compared.

Metrics are kept per query, so that runs are compared in pairs; the rankings are kept too, so that
a difference can be looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from aistack.evaluation.bootstrap import Interval, difference, interval
from aistack.evaluation.metrics import METRICS

#: Raised when the form of a stored run changes.
FORM: Final = 1

Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query got in one mode. `ms` is the server's time of the first page, milliseconds."""

    metrics: Mapping[str, float]
    ms: float
    cached: bool
    ranking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """`legs`: by mode, then by the id of the query; every mode has the same queries.

    `labels` is the digest of the labels; `about` is what else describes the run.
    """

    labels: str
    collection: str
    made: str
    legs: Mapping[str, Mapping[str, Answer]]
    about: Mapping[str, Any]

    def values(self, mode: str, metric: str) -> list[float]:
        """One per query, in the order of the run."""
        return [answer.metrics[metric] for answer in self.legs[mode].values()]

    def interval(self, mode: str, metric: str) -> Interval:
        """Mean over the queries with its bootstrap interval."""
        return interval(self.values(mode, metric))

    def latency(self, mode: str) -> tuple[float, float] | None:
        """p50 and p95 of the answers that did not come from the cache, ms; None without any."""
        taken = sorted(answer.ms for answer in self.legs[mode].values() if not answer.cached)
        return (_quantile(taken, 0.5), _quantile(taken, 0.95)) if taken else None

    def save(self, path: Path) -> None:
        """Raises OSError."""
        path.write_text(
            json.dumps({"form": FORM, **asdict(self)}, ensure_ascii=False, indent=1) + "\n",
            encoding="utf-8",
        )


class NotARun(ValueError):
    """A file that is no stored run."""


def load(path: Path) -> Run:
    """What `Run.save` wrote. Raises NotARun with what is wrong, OSError."""
    try:
        raw = json.loads(path.read_bytes())
        if raw["form"] != FORM:
            raise NotARun(f"{path} is a run of another version of aistack: run it again")
        legs = {
            mode: {name: _answer(one) for name, one in answers.items()}
            for mode, answers in raw["legs"].items()
        }
        run = Run(raw["labels"], raw["collection"], raw["made"], legs, dict(raw["about"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, NotARun):
            raise
        raise NotARun(f"{path} is not a run that `aistack eval run --out` wrote") from None
    if not legs or any(
        set(one) != set(next(iter(legs.values()))) or not one for one in legs.values()
    ):
        raise NotARun(f"{path} has no modes, or not the same queries in each")
    return run


def _answer(raw: Mapping[str, Any]) -> Answer:
    metrics = {name: float(raw["metrics"][name]) for name in METRICS}
    if not all(math.isfinite(one) for one in metrics.values()):
        raise ValueError("a metric is not a number")
    return Answer(metrics, float(raw["ms"]), bool(raw["cached"]), tuple(map(str, raw["ranking"])))


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one mode in two runs, and the paired interval of the difference."""

    mode: str
    metric: str
    before: float
    after: float
    difference: Interval

    @property
    def verdict(self) -> Verdict:
        """What the interval allows to say."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "no difference shown"


def compare(before: Run, after: Run) -> list[Change]:
    """By mode and metric. Raises ValueError where the runs cannot be paired."""
    if before.labels != after.labels:
        raise ValueError("the two runs were made with different labels")
    modes = [mode for mode in before.legs if mode in after.legs]
    if not modes:
        raise ValueError("the two runs have no mode in common")
    return [_change(before, after, mode, metric) for mode in modes for metric in METRICS]


def _change(before: Run, after: Run, mode: str, metric: str) -> Change:
    one = before.values(mode, metric)
    # The order of the labels may have changed; the queries have not.
    other = [after.legs[mode][name].metrics[metric] for name in before.legs[mode]]
    found = difference(one, other)
    return Change(mode, metric, sum(one) / len(one), sum(other) / len(other), found)


def fused_minus_best(run: Run, metric: str = METRICS[0]) -> tuple[str, Interval] | None:
    """The better single leg, and the paired interval of hybrid minus it; None without all three."""
    if not {"dense", "lexical", "hybrid"} <= set(run.legs):
        return None
    best = max(("dense", "lexical"), key=lambda mode: sum(run.values(mode, metric)))
    return best, difference(run.values(best, metric), run.values("hybrid", metric))


def _quantile(ordered: list[float], share: float) -> float:
    """Nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
