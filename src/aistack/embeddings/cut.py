"""Which of the waiting texts make one batch: by padded tokens."""

from __future__ import annotations

from collections.abc import Sequence

#: Share of real tokens that padding may add to a batch, beyond the fixed cost of a pass.
PADDING_SHARE = 0.1


def cut(lengths: Sequence[int], anchor: int, budget: int, pass_tokens: int) -> tuple[int, int]:
    """The window [low, high) of the ascending `lengths` that is one batch and holds `anchor`.

    It grows to shorter texts first (they cost their padding only), then to longer ones, while
    longest x count is within `budget` and the padding is within a tenth of the real tokens plus
    the fixed cost of the pass that it saves. The anchor is always in, however long.
    """
    low, high, real = anchor, anchor + 1, lengths[anchor]

    def fits(longest: int, count: int, tokens: int) -> bool:
        padded = longest * count
        return padded <= budget and padded - tokens <= pass_tokens + PADDING_SHARE * tokens

    while low and fits(lengths[high - 1], high - low + 1, real + lengths[low - 1]):
        low -= 1
        real += lengths[low]
    while high < len(lengths) and fits(lengths[high], high - low + 1, real + lengths[high]):
        real += lengths[high]
        high += 1
    return low, high
