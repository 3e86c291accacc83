"""`aistack status`: every service by its own `/readyz`, and what it needs, one by one.

Read from the unix sockets in the run directory of the running stack, not through the front door:
the front door shows no probes to the outside.
"""

from __future__ import annotations

import socket as socketlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aistack.cli.endpoint import NOT_RUNNING, START, running
from aistack.cli.errors import Unreachable
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from rich.text import Text

    from aistack.cli.output import Output

_SECONDS = 5.0
_GOOD = frozenset({"ready", "degraded"})
_STYLE = {
    **dict.fromkeys(("ready", "up", "done"), "green"),
    **dict.fromkeys(("degraded", "starting", "waiting", "pausing", "stopping"), "yellow"),
}


@dataclass(frozen=True, slots=True)
class NeedReport:
    """What a service found when it asked one of its needs."""

    name: str
    required: bool
    up: bool
    breaker: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """One service. `state` is its own word, or `down` where nothing answers."""

    name: str
    state: str
    progress: str = ""
    uptime_seconds: float | None = None
    needs: tuple[NeedReport, ...] = field(default_factory=tuple)

    @property
    def ready(self) -> bool:
        """Whether it does its work, perhaps without what merely degrades it."""
        return self.state in _GOOD


@dataclass(frozen=True, slots=True)
class ServerReport:
    """One server that is not ours: its state, and its process where the supervisor says it."""

    state: str
    pid: int | None = None
    restarts: int | None = None


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "status", rich_help_panel="The stack")
    def status(
        session: Session,
        run_dir: Annotated[
            Path | None,
            typer.Option(help="Where the sockets are (default: of the running stack)."),
        ] = None,
    ) -> None:
        """Show each service and what it needs.

        Exit 0 only if all are ready, 1 while the stack starts or a part is away, 3 if none runs.
        """
        base_url: str | None = None
        if run_dir is None:
            found = running(session.data_dir)
            if found is None or not found.alive():
                starting(session)
                raise typer.Exit(1)
            run_dir, base_url = found.run_dir, found.base_url
        reports = survey(run_dir)
        servers = programs(run_dir) or as_needs(reports)
        ready = all(report.ready for report in reports)
        front = None if base_url is None else front_door(base_url)
        good = ready and front is not False
        if session.out.as_json:
            session.out.document(
                {
                    "ready": good,
                    "base_url": base_url,
                    "front_door": front,
                    "run_dir": str(run_dir),
                    "services": [asdict(report) for report in reports],
                    "servers": {name: asdict(state) for name, state in servers.items()},
                }
            )
        else:
            show(session.out, reports, servers, base_url, front)
        if not good:
            raise typer.Exit(1)


def starting(session: Session) -> None:
    """Show the parts of a stack that holds the data directory and is not open yet.

    Raises Unreachable when there is none. The services are not asked: most cannot answer yet.
    """
    from aistack.dev.paths import run_directory_of
    from aistack.dev.state import holder, read_state

    pid = holder(session.data_dir / "lock")
    if pid is None:
        raise Unreachable(f"{NOT_RUNNING} on {session.data_dir}", fix=START)
    run_dir = run_directory_of(session.data_dir)
    table = read_state(run_dir / "state.json")
    if session.out.as_json:
        parts = {
            name: {"state": row["state"], "pid": row.get("pid"), "restarts": row.get("restarts")}
            for name, row in table.items()
        }
        session.out.document(
            {"ready": False, "starting": True, "pid": pid, "run_dir": str(run_dir), "parts": parts}
        )
        return
    session.out.text(f"starting, or stopping (process {pid})")
    rows = [(name, styled(row["state"]), row.get("status") or "") for name, row in table.items()]
    session.out.table(("part", "state", ""), rows)


def styled(word: str) -> Text:
    """A state in its colour."""
    from rich.text import Text

    return Text(word, style=_STYLE.get(word, "red"))


def survey(run_dir: Path) -> list[ServiceReport]:
    """Every service of stack.toml, asked at the same time."""
    from aistack.stack import load_stack

    names = list(load_stack().services)
    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(lambda name: ask(name, run_dir / f"{name}.sock"), names))


def ask(name: str, socket: Path) -> ServiceReport:
    """One service, over its socket."""
    import httpx

    try:
        # httpx leaves its socket open when a connect fails; this one is closed.
        with closing(socketlib.socket(socketlib.AF_UNIX)) as knock:
            knock.settimeout(_SECONDS)
            knock.connect(str(socket))
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket)),
            base_url="http://service",
            timeout=_SECONDS,
        ) as client:
            answer = client.get("/readyz")
            body = answer.json()
    except OSError:
        return ServiceReport(name, "down", "nothing answers on its socket")
    except httpx.TransportError as error:
        return ServiceReport(name, "down", f"no answer ({type(error).__name__})")
    except ValueError:
        return ServiceReport(name, "down", "what answers on its socket is not a service of ours")
    return ServiceReport(
        name,
        str(body.get("status", "unknown")),
        str(body.get("progress") or ""),
        body.get("uptime_seconds"),
        tuple(
            NeedReport(n["name"], n["required"], n["up"], n.get("breaker"), n.get("reason"))
            for n in body.get("needs", [])
        ),
    )


def front_door(base_url: str) -> bool:
    """Whether something takes connections at the address users have."""
    import httpx

    try:
        # No proxy, but the certificates that the user trusts (SSL_CERT_FILE).
        trusted = httpx.create_ssl_context() if base_url.startswith("https:") else True
        httpx.get(base_url, timeout=_SECONDS, trust_env=False, verify=trusted)
    except httpx.TransportError:
        return False
    return True


def programs(run_dir: Path) -> dict[str, ServerReport]:
    """The servers underneath, as their supervisor has them; empty where there is none."""
    from aistack.dev.state import read_state
    from aistack.stack import INFRASTRUCTURE

    return {
        name: ServerReport(row["state"], row.get("pid"), row.get("restarts"))
        for name, row in read_state(run_dir / "state.json").items()
        if name in INFRASTRUCTURE
    }


def as_needs(reports: Iterable[ServiceReport]) -> dict[str, ServerReport]:
    """The servers underneath, as the services that call them find them."""
    from aistack.stack import INFRASTRUCTURE, load_stack

    optional = {
        need
        for entry in load_stack().services.values()
        for need, kind in entry.needs.items()
        if kind == "optional"
    }
    seen: dict[str, list[bool]] = {name: [] for name in sorted(INFRASTRUCTURE)}
    for report in reports:
        for need in report.needs:
            if need.name in seen:
                seen[need.name].append(need.up)
    return {
        name: ServerReport("unknown" if not ups else "up" if all(ups) else "down")
        for name, ups in seen.items()
        if ups or name not in optional
    }


def show(
    out: Output,
    reports: list[ServiceReport],
    servers: dict[str, ServerReport],
    base_url: str | None,
    front: bool | None,
) -> None:
    """One line per service and server, then what is wrong with which need."""
    rows: list[tuple[str | Text, ...]] = []
    if base_url is not None:
        rows.append(("front door", styled("up" if front else "down"), "", base_url))
    for report in reports:
        words = "" if report.progress == report.state else report.progress
        rows.append((report.name, styled(report.state), duration(report.uptime_seconds), words))
        for need in report.needs:
            remark = [] if need.required else ["may be away"]
            if need.breaker not in {None, "closed"}:
                remark.append(f"breaker {need.breaker}")
            if need.reason:
                remark.append(need.reason)
            rows.append(("  " + need.name, styled("up" if need.up else "down"), "",
                         ", ".join(remark)))  # fmt: skip
    for name, server in servers.items():
        remark = [f"started again {server.restarts} times"] if server.restarts else []
        rows.append((name, styled(server.state), "", ", ".join(remark)))
    out.table(("part", "state", "up for", ""), rows)


def duration(seconds: float | None) -> str:
    """`42 s`, `5 min`, `3 h 12 min`, `2 d 4 h`."""
    if seconds is None:
        return ""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if hours == 0:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{hours // 24} d {hours % 24} h"
