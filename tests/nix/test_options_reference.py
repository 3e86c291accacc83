"""The option reference is what the modules say, and each option says what it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nix.options_reference import (
    COMMAND,
    PAGE,
    Option,
    Reference,
    Text,
    anchor,
    grouped,
    markdown,
    read,
)
from nix.toolchain import ROOT, Nix, NixError

#: Where options are named for people.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def reference(nix_tool: Nix) -> Reference:
    """The options as evaluated on the stand-in."""
    return read(nix_tool)


def test_the_page_is_current(reference: Reference) -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(reference), f"run: {COMMAND}"


def test_nixpkgs_own_lib_gives_the_same_page(reference: Reference, real_lib_nix: Nix) -> None:
    assert markdown(read(real_lib_nix)) == markdown(reference)


def test_every_option_says_what_it_does(reference: Reference) -> None:
    silent = {}
    for option in reference.options:
        words = (option.description or "").strip()
        if len(words) < 10 or not words.endswith((".", "```")) or not words[0].isupper():
            silent[option.name] = words
    assert silent == {}
    assert len(reference.options) > 100


def test_no_internal_option_is_shown(nix_tool: Nix, reference: Reference) -> None:
    shown = {option.path for option in reference.options}
    assert ("enable",) in shown
    assert ("nginx", "tls", "mode") in shown
    assert ("llama", "instances", "<name>", "contextSize") in shown
    internal = nix_tool.eval_json(
        f"let o = {nix_tool.host('{ }')}.options.services.aistack; in"
        " builtins.filter (n: o.${n}.internal or false) (builtins.attrNames o)"
    )
    assert len(internal) > 3
    assert not {(name,) for name in internal} & shown


def code(reference: Reference) -> dict[str, str]:
    """Defaults and examples that stand there as Nix code, by the option and which of them."""
    found: dict[str, str] = {}
    for option in reference.options:
        for label, value in (("default", option.default), ("example", option.example)):
            if value is not None and not value.markdown:
                found[f"{option.name} {label}"] = value.text
    return found


def test_defaults_and_examples_are_nix(nix_tool: Nix, reference: Reference, tmp_path: Path) -> None:
    """`literalExpression` is for code; words belong into `literalMD`."""
    texts = code(reference)
    assert len(texts) > 100

    def refused(names: list[str]) -> list[str]:
        for i, name in enumerate(names):
            (tmp_path / f"{i}.nix").write_text(
                f"{{ config, lib, options, pkgs }}:\n{texts[name]}\n", encoding="utf-8"
            )
        try:
            nix_tool.parse([tmp_path / f"{i}.nix" for i in range(len(names))])
        except NixError:
            if len(names) == 1:
                return names
            half = len(names) // 2
            return refused(names[:half]) + refused(names[half:])
        return []

    assert refused(list(texts)) == []


def known(reference: Reference) -> set[str]:
    """Every name by which an option or a group of them may be called."""
    return {
        ".".join(("services.aistack", *option.path[:depth]))
        for option in [*reference.options, *grouped(reference)]
        for depth in range(len(option.path) + 1)
    }


def exists(name: str, reference: Reference, names: set[str]) -> bool:
    """Whether there is such an option; what is named like an instance may stand for any."""
    if name in names:
        return True
    if any(name.startswith(f"services.aistack.{part}") for part in free(reference)):
        return True
    pattern = re.sub(r"(instances\.)[a-z0-9-]+", r"\1<name>", name)
    return pattern in names


def free(reference: Reference) -> set[str]:
    """Options below which names are the user's: sets of values, and settings."""
    return {
        ".".join(option.path) + "."
        for option in reference.options
        if option.type.startswith(("attribute set of", "JSON", "raw", "unspecified"))
        and "submodule" not in option.type
    }


def test_options_that_descriptions_name_are_there(reference: Reference) -> None:
    names = known(reference)
    missing = {
        f"{option.name}: {named}"
        for option in reference.options
        for named in re.findall(r"services\.aistack\.[\w.<>-]*[\w>]", option.description or "")
        if not exists(named, reference, names)
    }
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_documents_name_are_there(page: Path, reference: Reference) -> None:
    names = known(reference)
    text = page.read_text(encoding="utf-8")
    missing = {
        named
        for named in re.findall(r"services\.aistack\.[\w.<>-]*[\w>]", text)
        if not exists(named, reference, names)
    }
    assert missing == set()


def test_links_inside_the_page_lead_somewhere(reference: Reference) -> None:
    text = markdown(reference)
    anchors = {anchor(heading) for heading in re.findall(r"^#+ `(.+)`$", text, re.MULTILINE)}
    linked = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert linked
    assert linked <= anchors


def test_an_option_of_every_service_stands_there_once() -> None:
    def option(service: str, default: str, words: str = "Memory of {}.") -> Option:
        text = Text(default)
        return Option((service, "memoryMax"), "string", words.format(service), False, text, None)

    both = Reference([option("a", '"1G"'), option("b", '"2G"')], {"a": "One", "b": "Two"})
    (one,) = grouped(both)
    assert one.path == ("<service>", "memoryMax")
    assert one.description == "Memory of the service."
    assert one.defaults == (("a", Text('"1G"')), ("b", Text('"2G"')))
    assert '- default: a `"1G"`, b `"2G"`' in markdown(both)

    apart = Reference(
        [option("a", '"1G"'), option("b", '"2G"', "Another thing.")], {"a": "One", "b": "Two"}
    )
    with pytest.raises(ValueError, match="list them singly"):
        grouped(apart)
