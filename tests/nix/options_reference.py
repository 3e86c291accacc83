"""`docs/options.md`: every option of `services.aistack`, read from an evaluated host.

`python -m nix.options_reference` (with `tests` on the path; `make options`) writes the file.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from nix.debian import UnavailableError
from nix.hosts import BASE
from nix.toolchain import ROOT, Nix, NixError, nix

PAGE = ROOT / "docs" / "options.md"
COMMAND = "make options"
#: The options are all there whether the stack is on or not; nothing of the host is looked at.
WALK = Path(__file__).with_suffix(".nix")

HEAD = f"""\
# Options of `services.aistack`

Generated from an evaluation of the modules by `{COMMAND}`; a test keeps it current. What a path
means inside `settings` is in [configuration.md](configuration.md), how the parts go together in
[install-nixos.md](install-nixos.md).

"""


@dataclass(frozen=True, slots=True)
class Text:
    """A default or an example: Nix code, or words."""

    text: str
    markdown: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """One option as the reference shows it; `path` is what comes after `services.aistack`."""

    path: tuple[str, ...]
    type: str
    description: str | None
    read_only: bool
    default: Text | None
    example: Text | None
    #: Of a group of options that differ by service: the defaults, where they differ too.
    defaults: tuple[tuple[str, Text], ...] = ()

    @property
    def name(self) -> str:
        """The whole name."""
        return ".".join(("services.aistack", *self.path))


@dataclass(frozen=True, slots=True)
class Reference:
    """The options, and the services of the table."""

    options: list[Option]
    #: Name and summary.
    services: dict[str, str]


def read(tool: Nix) -> Reference:
    """The options of the modules in the checkout."""
    found = tool.eval_json(
        f"let host = {tool.host(BASE)}; in {{"
        f" options = import {WALK} {{ inherit (nixpkgs) lib; inherit (host) options; }};"
        " services = builtins.mapAttrs (_: entry: entry.summary)"
        " host.config.services.aistack.stack.services; }"
    )

    def text(value: dict[str, str | bool] | None) -> Text | None:
        if value is None:
            return None
        return Text(str(value["text"]).strip(), bool(value["markdown"]))

    options = [
        Option(
            path=tuple(entry["path"][2:]),
            type=_numbers(entry["type"]),
            description=entry["description"] and entry["description"].strip(),
            read_only=entry["readOnly"],
            default=text(entry["default"]),
            example=text(entry["example"]),
        )
        for entry in found["options"]
    ]
    return Reference(options, found["services"])


def _numbers(text: str) -> str:
    """A type's text with numbers as one writes them: a `lib` may say 0.500000."""
    return re.sub(r"\b(\d+\.\d*?[1-9])0+\b", r"\1", text)


def grouped(reference: Reference) -> list[Option]:
    """The options, those that every service has once, as `<service>`."""
    names = list(reference.services)
    own = {name: [o for o in reference.options if o.path[0] == name] for name in names}
    merged = [
        _merged([own[name][i] for name in names], reference.services)
        for i in range(len(own[names[0]]))
    ]
    return [o for o in reference.options if o.path[0] not in own] + merged


def _merged(options: list[Option], services: dict[str, str]) -> Option:
    """One option for the same option of each service; raises ValueError where they differ."""
    general = [_general(option, services[option.path[0]]) for option in options]
    first = replace(general[0], default=None)
    for other in general[1:]:
        if replace(other, default=None) != first:
            raise ValueError(f"{other.name} is another option for each service: list them singly")
    if len({option.default for option in options}) == 1:
        return replace(first, default=options[0].default)
    return replace(
        first, defaults=tuple((o.path[0], o.default) for o in options if o.default is not None)
    )


def _general(option: Option, summary: str) -> Option:
    """The option without the name and the summary of its service."""
    name = option.path[0]
    words = (option.description or "").replace(f" ({summary})", "").replace(f": {summary}", "")
    # Code names any of them, prose the one.
    parts = [
        re.sub(rf"\b{name}\b", "<service>" if i % 2 else "the service", part)
        for i, part in enumerate(words.split("`"))
    ]
    words = "`".join(parts)
    return replace(option, path=("<service>", *option.path[1:]), description=words)


def markdown(reference: Reference) -> str:
    """The whole page."""
    parts = [HEAD]
    options = grouped(reference)
    known = {option.name for option in options}
    options.sort(key=lambda option: option.path)
    plain = [option for option in options if len(option.path) == 1]
    deep = [option for option in options if len(option.path) > 1]
    sections = [("services.aistack", plain)] + [
        (f"services.aistack.{head}", list(inner))
        for head, inner in groupby(deep, lambda o: o.path[0])
    ]
    for title, section in sections:
        parts.append(f"## `{title}`\n\n")
        if title.endswith("<service>"):
            names = ", ".join(f"`{name}`" for name in reference.services)
            parts.append(f"For each service of the table: {names}.\n\n")
        parts.extend(_entry(option, known) for option in section)
    return "".join(parts).rstrip() + "\n"


def _entry(option: Option, known: set[str]) -> str:
    lines = [f"### `{option.name}`", "", _words(option.description or "", known), ""]
    lines.append(f"- type: {_type(option.type)}")
    if option.defaults:
        each = ", ".join(f"{name} {_code(text)}" for name, text in option.defaults)
        lines.append(f"- default: {each}")
    elif option.default is not None:
        lines.extend(_valued("default", option.default, known))
    elif not option.read_only:
        lines.append("- no default: it has to be set")
    if option.read_only:
        lines.append("- read-only")
    if option.example is not None:
        lines.extend(_valued("example", option.example, known))
    return "\n".join([*lines, "", ""])


def _valued(label: str, value: Text, known: set[str]) -> list[str]:
    if "\n" in value.text and not value.markdown:
        block = [f"  {line}".rstrip() for line in value.text.splitlines()]
        return [f"- {label}:", "  ```nix", *block, "  ```"]
    return [f"- {label}: {_words(value.text, known) if value.markdown else _code(value)}"]


def _code(value: Text) -> str:
    """Words as they are, code between as many backticks as it takes."""
    if value.markdown or "`" in value.text or "{option}" in value.text:
        return re.sub(r"\{option\}", "", value.text)
    return f"`{value.text}`"


def _type(text: str) -> str:
    """A type's text; a pattern stands in it as code."""
    return re.sub(r"matching the pattern (.+)$", r"matching `\1`", text)


def _words(text: str, known: set[str]) -> str:
    """A description, with links for the options that it names."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`](#{anchor(name)})" if name in known else f"`{name}`"

    return re.sub(r"\{option\}`([^`]+)`", link, text)


def anchor(heading: str) -> str:
    """The anchor that a Markdown renderer gives a heading which is one code span."""
    return re.sub(r"[^\w-]", "", heading.lower())


def main() -> int:
    """Write the page."""
    try:
        PAGE.write_text(markdown(read(nix())), encoding="utf-8")
    except (NixError, UnavailableError) as error:
        print(error, file=sys.stderr)
        return 1
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
