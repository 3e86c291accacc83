"""A wrong configuration is refused, and told what to write instead.

What the modules check themselves (`assertions`) is asked of all hosts in one evaluation. What a
type refuses ends an evaluation, so those are one each.
"""

from __future__ import annotations

import re
import tomllib
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from nix.hosts import BASE, FAILED
from nix.toolchain import ROOT, Nix, NixError

LIBS = ["nix_tool", "real_lib_nix"]


@dataclass(frozen=True, slots=True)
class Case:
    """A configuration, as a module's text, and parts of what is said about it."""

    module: str
    says: tuple[str, ...]
    special: str = "{ }"

    def expression(self, tool: Nix, secret: Path = Path("/not-there")) -> str:
        """The host, as a Nix expression; `secret` stands where a case wants a path literal."""
        made = tool.host(BASE, self.module.replace("@secret@", str(secret)))
        return made.replace("nixosSystem {", f"nixosSystem {{ specialArgs = {self.special};", 1)


def cases(kind: str) -> dict[str, Case]:
    """The cases of a kind, by name."""
    table = tomllib.loads((Path(__file__).parent / "data/wrong_configurations.toml").read_text())
    return {
        name: Case(
            entry.get("host") or f"{{ services.aistack = {{ {entry['aistack']} }}; }}",
            tuple(entry["says"]),
            entry.get("special", "{ }"),
        )
        for name, entry in table[kind].items()
    }


#: What the modules check, and what a type refuses; the latter's error names option and type.
ASSERTIONS = cases("assertions")
TYPES = cases("types")


def one_line(text: str) -> str:
    """Without the line breaks that only make it readable."""
    return re.sub(r"\s+", " ", text)


def messages(tool: Nix, asked: dict[str, Case]) -> dict[str, list[str]]:
    """The failed assertions of each case's host, in one evaluation.

    One host that cannot be evaluated takes all with it. Then each is asked alone, and that one's
    error stands for its messages.
    """
    hosts = "\n".join(f'"{name}" = failed {case.expression(tool)};' for name, case in asked.items())
    try:
        found: dict[str, list[str]] = tool.eval_json(f"let failed = {FAILED}; in {{\n{hosts}\n}}")
    except NixError as error:
        if len(asked) == 1:
            return {name: [f"no assertion, but: {one_line(str(error))[-400:]}"] for name in asked}
        alone = (messages(tool, {name: case}) for name, case in asked.items())
        return {name: texts for one in alone for name, texts in one.items()}
    return {name: [one_line(text) for text in texts] for name, texts in found.items()}


@pytest.fixture(scope="module", params=LIBS)
def tool(request: pytest.FixtureRequest) -> Nix:
    """Each `lib` in turn."""
    chosen: Nix = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="module")
def said(tool: Nix) -> dict[str, list[str]]:
    """What is said about each of `ASSERTIONS`, and about a host without a mistake."""
    return messages(tool, ASSERTIONS | {"right": Case("{ }", ())})


def test_there_are_enough_of_them() -> None:
    assert len(ASSERTIONS) >= 25


def test_a_host_without_a_mistake_is_not_blamed(said: dict[str, list[str]]) -> None:
    assert said["right"] == []


@pytest.mark.parametrize("name", ASSERTIONS)
def test_a_wrong_configuration_is_told_what_to_write(said: dict[str, list[str]], name: str) -> None:
    parts = ASSERTIONS[name].says
    assert any(all(part in message for part in parts) for message in said[name]), said[name]


#: Stands for a value inside a text.
VALUE = "\N{BULLET}"


def without_values(text: str) -> str:
    """A module's text with a bullet for each `${…}`, its line breaks kept."""
    parts = text.split("${")
    kept = [parts[0]]
    deep = 0
    for part in parts[1:]:
        deep += 1
        for i, letter in enumerate(part):
            deep += {"{": 1, "}": -1}.get(letter, 0)
            if deep == 0:
                kept.append(VALUE + "\n" * part.count("\n", 0, i) + part[i + 1 :])
                break
    return "".join(kept)


def literals() -> dict[str, re.Pattern[str]]:
    """A pattern for every message in the modules, by where it stands."""
    found = {}
    string = re.compile(r"''(.*?)''(?!')|\"((?:\\.|[^\"\\])*)\"", re.DOTALL)
    for path in sorted((ROOT / "nix/modules").glob("*.nix")):
        text = without_values(path.read_text(encoding="utf-8"))
        for start in re.finditer(r"\bmessage =", text):
            # Up to the end of the assertion; `if … then` may hold two of them.
            end = re.compile(r"^ *\}", re.MULTILINE).search(text, start.end())
            assert end is not None, path
            for i, quoted in enumerate(string.finditer(text, start.end(), end.start())):
                words = (quoted[1] or quoted[2].replace('\\"', '"')).strip()
                fixed = [re.escape(one_line(part)) for part in words.split(VALUE)]
                line = text.count("\n", 0, start.start()) + 1
                found[f"{path.name}:{line} ({i + 1})"] = re.compile(".*".join(fixed))
    return found


def test_every_assertion_of_the_modules_has_a_case(said: dict[str, list[str]]) -> None:
    everything = [message for texts in said.values() for message in texts]
    written = literals()
    assert len(written) > 40
    missing = [
        where
        for where, pattern in written.items()
        if not any(pattern.search(message) for message in everything)
    ]
    assert missing == []


def test_what_a_type_refuses_is_named(tool: Nix, tmp_path: Path) -> None:
    # A name of this run's own: the store is shared with other runs.
    secret = tmp_path / f"secret-{uuid.uuid4().hex}"
    secret.write_text("not for the store")

    def error(case: Case) -> str:
        try:
            tool.eval_raw(f"{case.expression(tool, secret)}.config.system.build.toplevel.drvPath")
        except NixError as refused:
            return one_line(str(refused))
        return "accepted"

    with ThreadPoolExecutor(max_workers=2) as pool:
        errors = dict(zip(TYPES, pool.map(error, TYPES.values()), strict=True))
    wrong_words = {
        name: text
        for name, text in errors.items()
        if not all(part in text for part in TYPES[name].says)
    }
    assert wrong_words == {}
    # The path literals were refused before they were copied; one that is accepted is.
    assert sum("@secret@" in case.module for case in TYPES.values()) >= 2
    store = tool.store / "nix/store"
    assert not list(store.glob(f"*-{secret.name}"))
    tool.eval_raw(f'"${{{secret}}}"')
    assert list(store.glob(f"*-{secret.name}"))


def test_the_rebuild_stops_and_prints_them_all(tool: Nix) -> None:
    """As on NixOS: every failed assertion in one error."""
    both = [ASSERTIONS["one-port-for-both"], ASSERTIONS["redis-nowhere"]]
    modules = [case.module for case in both]
    with pytest.raises(NixError) as refused:
        tool.eval_raw(f"{tool.host(BASE, *modules)}.config.system.build.toplevel.drvPath")
    text = one_line(str(refused.value))
    assert "Failed assertions:" in text
    for case in both:
        assert all(part in text for part in case.says)
