"""Which of the waiting texts make one batch: by tokens, and by the padding between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Share of its tokens that the padding of a batch may cost, beyond the pass that it saves.
PADDING_SHARE = 0.1
#: A batch that costs less than so many starts of a pass is not divided, for two passes would cost
#: a fifth more than one.
DIVIDED_STARTS = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """What an engine's forward pass costs beside its tokens, in tokens.

    `start` is what a pass costs by being one, `padding` what a place costs that only makes a text
    as long as the longest: 1 where it goes through the whole model.
    """

    start: float
    padding: float = 1.0

    def of_padding(self, longest: int, count: int, tokens: int) -> float:
        """What padding `count` texts of so many `tokens` to the `longest` costs."""
        return self.padding * (longest * count - tokens)


def cut(
    lengths: Sequence[int], anchor: int, budget: int, cost: Cost, *, most: int | None = None
) -> tuple[int, int]:
    """The window [low, high) of the ascending `lengths` that is one batch and holds `anchor`.

    It grows to texts of the same length first, so that they do not wait to be the oldest one by
    one, then to shorter ones (they cost their padding only), then to longer ones, while
    tokens and padding cost no more than `budget`, and the padding no more than a tenth of the
    tokens and the pass that it saves. Where it costs more than a few starts of a pass it has no
    more than `most` texts. The anchor is always in, however long.
    """
    whole = DIVIDED_STARTS * cost.start
    low, high, real = anchor, anchor + 1, lengths[anchor]

    def fits(longest: int, count: int, tokens: int) -> bool:
        padding = cost.of_padding(longest, count, tokens)
        if most is not None and count > most and tokens + padding > whole:
            return False
        return tokens + padding <= budget and padding <= cost.start + PADDING_SHARE * tokens

    while (
        high < len(lengths)
        and lengths[high] == lengths[anchor]
        and fits(lengths[anchor], high - low + 1, real + lengths[high])
    ):
        real += lengths[high]
        high += 1
    while low and fits(lengths[high - 1], high - low + 1, real + lengths[low - 1]):
        low -= 1
        real += lengths[low]
    while high < len(lengths) and fits(lengths[high], high - low + 1, real + lengths[high]):
        real += lengths[high]
        high += 1
    return low, high
