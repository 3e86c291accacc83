"""What makes a window of text unfit to support a sentence, however alike the two read.

Each rule gives a reason or None. They err on the side of refusing: a citation that is missing costs
a reader a look, a citation under a false sentence costs the trust in all of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import groupby, pairwise

from aistack.coordinator.evidence import Window
from aistack.coordinator.lexicon import CLAIMS, CONTRAST_CONJUNCTIONS, UNSIGNED
from aistack.coordinator.tokens import Kind, Token

NEIGHBOURS = 2  # content tokens each side that say what a number or a name belongs to

MARGIN = 2  # tokens by which a rival must be nearer
STATEMENT_BREAKS = CONTRAST_CONJUNCTIONS | {"because", "since", "so", "as", "which"}
SAME_COMMAND = 1  # tokens apart: "nix-store --optimise" are two names of one thing


def contradiction(sentence: Sequence[Token], window: Window) -> str | None:
    """The first reason why `window` does not support `sentence`, or None.

    Args:
        sentence: all tokens of the sentence, stop words included.
    """
    content = [t for t in sentence if t.content]
    for rule in (
        _anchors,
        _polarity,
        _claims,
        _names,
        _scattered,
        _crossed,
        _compared,
        _binding,
        _replaced,
    ):
        reason = rule(sentence, content, window)
        if reason is not None:
            return reason
    return None


def present(token: Token, window: Window) -> bool:
    """Whether the window has the token: by norm, or for an identifier letter by letter."""
    if token.kind is Kind.NUMBER:
        return any(
            window.tokens[i].kind is Kind.NUMBER
            and (not token.unit or not window.tokens[i].unit or token.unit == window.tokens[i].unit)
            for i in window.places.get(token.norm, ())
        ) or (token.norm in window.places and token.unit is None)
    if token.norm in window.places:
        return True
    if token.kind is Kind.IDENTIFIER:
        exact = rf"(?<![\w.-]){re.escape(token.norm)}(?![\w-]|\.\w)"
        return re.search(exact, window.lower) is not None
    return False


def _anchors(_: Sequence[Token], content: Sequence[Token], window: Window) -> str | None:
    for token in content:
        if token.anchor and not present(token, window):
            return f"{token.kind.value} {token.text!r} is not in the passage"
    return None


def _polarity(_: Sequence[Token], content: Sequence[Token], window: Window) -> str | None:
    for token in content:
        signs = {
            window.tokens[i].sign
            for i in window.places.get(token.norm, ())
            if window.tokens[i].norm == token.norm  # a part of an identifier denies nothing
        }
        if signs and token.sign not in signs and token.norm not in UNSIGNED:
            return f"{token.text!r} is negated on one side only, or its opposite"
    return None


def _claims(sentence: Sequence[Token], _: Sequence[Token], window: Window) -> str | None:
    for token in sentence:
        carriers = CLAIMS.get(token.text.lower())
        if carriers is not None and token.sign > 0 and not carriers & window.words:
            return f"the passage does not say {token.text!r}"
    return None


def _names(_: Sequence[Token], content: Sequence[Token], window: Window) -> str | None:
    said = {t.norm for t in content}
    for token in content:
        if not token.name or token.anchor or token.norm in window.places:
            continue
        if token.norm not in window.context:
            return f"the name {token.text!r} is not in the passage"
        if any(t.name and not t.anchor and t.norm not in said for t in window.tokens):
            return f"the passage speaks of another name than {token.text!r}"
    return None


def _binding(_: Sequence[Token], content: Sequence[Token], window: Window) -> str | None:
    """A number, name or opposite must belong to the same words here as there.

    "HTTP on port 443 and HTTPS on port 80" has every word of a passage that says the reverse.
    """
    said = {(t.norm, t.sign): i for i, t in reversed(list(enumerate(content)))}
    for at, token in enumerate(content):
        own = [
            i
            for i in window.places.get(token.norm, ())
            if window.tokens[i].norm == token.norm and window.tokens[i].sign == token.sign
        ]
        if not own:
            continue
        reason = f"{token.text!r} belongs to something else in the passage"
        apart, crossed = [], []  # rivals that the sentence lacks, or has on the other side
        for rival in _rivals(token, own, window):
            other = said.get((window.tokens[rival].norm, window.tokens[rival].sign))
            if other is None:
                same_word = window.tokens[rival].norm == token.norm
                if token.kind is Kind.NUMBER or same_word:
                    apart.append(rival)
            elif (other < at) != (rival < min(own)) and (other < at) != (rival < max(own)):
                crossed.append(rival)
        if _nearer(content, at, own, apart, window, MARGIN) or _nearer(
            content, at, own, crossed, window, 1
        ):
            return reason
    return None


def _replaced(_: Sequence[Token], content: Sequence[Token], window: Window) -> str | None:
    """One word exchanged in wording that is otherwise the passage's.

    Between two words that match in order ("derived from the German word"), or straight before one
    ("symbolic links" for "hard links").
    """
    theirs = [t.norm for t in window.tokens]
    ours = [t.norm for t in content]
    said = set(ours)
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    pairs = [
        (left.a + left.size, left.b + left.size)
        for left, right in pairwise(blocks)
        if left.size and right.size and right.a - left.a == right.b - left.b == left.size + 1
    ]
    for at, (token, head) in enumerate(pairwise(content)):
        if _adjacent(token, head):
            pairs += [(at, i - 1) for i in window.places.get(head.norm, ()) if _before(window, i)]
    for at, there in pairs:
        token, instead = content[at], window.tokens[there]
        if token.norm not in window.places and instead.norm not in said and not instead.anchor:
            return f"{token.text!r} stands where the passage has {instead.text!r}"
    return None


def _adjacent(token: Token, following: Token) -> bool:
    return 0 < following.start - token.end <= 2 and token.clause == following.clause


def _head(window: Window, index: int) -> Token | None:
    """The word that the token at `index` stands straight before."""
    following = window.tokens[index + 1 : index + 2]
    return following[0] if following and _adjacent(window.tokens[index], following[0]) else None


def _before(window: Window, index: int) -> bool:
    return index > 0 and _adjacent(window.tokens[index - 1], window.tokens[index])


def _nearer(
    content: Sequence[Token],
    at: int,
    own: Sequence[int],
    rivals: Sequence[int],
    window: Window,
    margin: int,
) -> bool:
    """Whether the words next to the token stand clearly nearer to a rival of it in the window.

    Each side has a vote: the nearest word there that does not stand equally near to both.
    """
    if not rivals:
        return False
    votes = []
    for side in (reversed(content[:at]), iter(content[at + 1 :])):
        for neighbour in _neighbours(content[at], side, window):
            near = [
                j
                for j in window.places[neighbour.norm]
                if j not in own and j not in rivals and window.tokens[j].norm == neighbour.norm
            ]
            if not near:
                continue
            mine = min(abs(window.position[i] - window.position[j]) for i in own for j in near)
            theirs = min(abs(window.position[r] - window.position[j]) for r in rivals for j in near)
            if theirs + margin <= mine or mine < theirs:
                votes.append(theirs < mine)
                break
    return any(votes) and all(votes)


def _rivals(token: Token, own: Sequence[int], window: Window) -> Iterator[int]:
    """Tokens of the window that could stand where `token` does: of its kind, and not it."""
    heads = {h.norm for i in own if (h := _head(window, i)) is not None}
    for index, other in enumerate(window.tokens):
        if other.norm != token.norm and (h := _head(window, index)) and h.norm in heads:
            yield index  # "host platform" beside "target platform"
            continue
        if any(abs(window.position[index] - window.position[i]) <= SAME_COMMAND for i in own):
            continue
        if token.kind is Kind.NUMBER:
            if other.kind is Kind.NUMBER and other.norm != token.norm and other.unit == token.unit:
                yield index
        elif other.norm == token.norm:
            if other.sign != token.sign:  # the opposite, or the same thing denied
                yield index
        elif token.kind is Kind.IDENTIFIER:
            if other.kind is Kind.IDENTIFIER:
                yield index
        elif token.name and other.name and not other.anchor:
            yield index


def _scattered(sentence: Sequence[Token], _: Sequence[Token], window: Window) -> str | None:
    """What a statement says must be said in one place, of the same thing.

    "The server is X, while the client is Y" has all words of "the client is X". The one exception:
    the passage names its subject first and goes on with "It …"; then the statement's own first
    words may stand at the beginning of the sentence before.
    """
    for statement in _statements(sentence):
        if _said(statement, window):
            continue
        # "X is A and does B" may be said in two sentences about X.
        joined = _split(statement, frozenset({"and"}))
        if window.contrasts or len(joined) < 2 or not all(_said(part, window) for part in joined):
            return f"the passage says {statement[0].text!r} of something else"
    return None


def _said(statement: Sequence[Token], window: Window) -> bool:
    said = [(t, _segments_of(t, window)) for t in statement if t.content]
    said = [(t, segments) for t, segments in said if segments]
    everywhere = set().union(*(segments for _, segments in said)) if said else set()
    return not said or any(_says(said, segment, window) for segment in everywhere)


def _says(said: Sequence[tuple[Token, set[int]]], segment: int, window: Window) -> bool:
    """Whether one segment has the statement, its subject perhaps named just before."""
    missing = [segment not in segments for _, segments in said]
    if not any(missing):
        return True
    subject = sum(missing)
    if segment not in window.anaphoric or not all(missing[:subject]):
        return False
    return all(
        token.text.lower() not in CLAIMS
        and any(_opens(place, segment, subject, window) for place in _meant(token, window))
        for token, _ in said[:subject]
    )


def _opens(place: int, segment: int, subject: int, window: Window) -> bool:
    """Whether the token opens the nearest earlier segment that does not itself refer back."""
    before = window.segments[place]
    if before >= segment or not window.anaphoric.issuperset(range(before + 1, segment + 1)):
        return False
    return place - window.segments.index(before) <= subject


def _segments_of(token: Token, window: Window) -> set[int]:
    return {window.segments[i] for i in _meant(token, window)}


def _meant(token: Token, window: Window) -> list[int]:
    """Where the window has the token, and not its opposite."""
    return [
        i
        for i in window.places.get(token.norm, ())
        if window.tokens[i].norm != token.norm or window.tokens[i].sign == token.sign
    ]


def _crossed(sentence: Sequence[Token], content: Sequence[Token], window: Window) -> str | None:
    """Two statements of the sentence must not each take a half from two of the passage.

    "X is optional and Y is unknown" has all words of "X is unknown and Y is optional".
    """
    once = Counter(t.norm for t in content)
    parts: dict[int, set[int]] = {}
    clause = 0
    for before, token in pairwise([*sentence[:1], *sentence]):
        clause += token.clause != before.clause or token.text.lower() == "and"
        found = window.places.get(token.norm, ())
        if token.content and once[token.norm] == 1 and len(found) == 1:
            parts.setdefault(clause, set()).add(window.clause_of[found[0]])
    sets = list(parts.values())
    for index, one in enumerate(sets):
        if any(len(one & other) > 1 for other in sets[index + 1 :]):
            return "two statements of the passage are exchanged"
    return None


def _compared(sentence: Sequence[Token], _: Sequence[Token], window: Window) -> str | None:
    """What stands after "than" must stand after it in the passage too."""
    at = next((t.start for t in sentence if t.text.lower() == "than"), None)
    if at is None or not window.than:
        return None
    for token in sentence:
        places = window.places.get(token.norm, ()) if token.content else ()
        beside = [i for i in places if window.clause_of[i] in window.than]
        if beside and all(
            (i > window.than[window.clause_of[i]]) != (token.start > at) for i in beside
        ):
            return f"{token.text!r} is on the other side of the comparison"
    return None


def _statements(sentence: Sequence[Token]) -> list[list[Token]]:
    """Each part of the sentence that states something of its own."""
    return [
        statement
        for _, part in groupby(sentence, key=lambda t: t.part)
        for statement in _split(list(part), STATEMENT_BREAKS)
    ]


def _split(tokens: Sequence[Token], words: frozenset[str]) -> list[list[Token]]:
    """The tokens between the given words; parts without content are left out."""
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind is Kind.STOP and token.text.lower() in words:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if any(t.content for t in part)]


def _neighbours(token: Token, side: Iterable[Token], window: Window) -> list[Token]:
    """The nearest content tokens on one side, in the token's clause, that the window has too."""
    found: list[Token] = []
    for other in side:
        if other.clause != token.clause or len(found) == NEIGHBOURS:
            break
        if other.norm in window.places and other.norm != token.norm:
            found.append(other)
    return found
