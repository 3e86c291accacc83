"""`aistack ask`: an answer from the documents, streamed, with its citations underneath."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aistack.cli.errors import CliError, Usage
from aistack.cli.output import clean
from aistack.cli.search import where
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from aistack.cli.output import Output

#: Seconds to wait out 429 and 503: a coordinator that is started again is back within them.
PATIENCE = 30.0


@dataclass(slots=True)
class Answer:
    """What has arrived of an answer."""

    pieces: list[str] = field(default_factory=list)
    aistack: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    model: str | None = None
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self.pieces)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "ask", rich_help_panel="Documents")
    def ask(
        session: Session,
        question: Annotated[
            str,
            typer.Argument(
                metavar="QUESTION",
                help="The question, or - to read it from stdin.",
                show_default=False,
            ),
        ],
        collection: Annotated[str, typer.Option("--collection", "-c")] = "default",
        model: Annotated[
            str, typer.Option(help="`aistack` answers from documents, `local` is the bare model.")
        ] = "aistack",
        top_k: Annotated[int | None, typer.Option(help="Passages to read.", min=1, max=20)] = None,
        stream: Annotated[
            bool, typer.Option("--stream/--no-stream", help="Show the answer as it is made.")
        ] = True,
    ) -> None:
        """Ask the documents. Citations are numbered; without support it says so.

        With --json a stream is JSON lines: `delta` events, then one `answer` event;
        with --no-stream it is one document.
        """
        text = (sys.stdin.read() if question == "-" else question).strip()
        if not text:
            raise Usage("the question is empty", fix="write it after `aistack ask`")
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "stream": stream,
        }
        if model == "aistack":
            extension = {"collection": collection, "top_k": top_k}
            body["aistack"] = {k: v for k, v in extension.items() if v is not None}
        if stream:
            body["stream_options"] = {"include_usage": True}
            _streamed(session, body)
        else:
            _whole(session, body)


def _whole(session: Session, body: dict[str, Any]) -> None:
    with session.api(patience=PATIENCE) as api:
        answer = api.json("POST", "/v1/chat/completions", body=body)
    if session.out.as_json:
        session.out.document(answer)
        return
    session.out.text(clean(answer["choices"][0]["message"]["content"] or ""))
    citations(session.out, answer.get("aistack") or {})


def _streamed(session: Session, body: dict[str, Any]) -> None:
    import httpx

    out, answer = session.out, Answer()
    try:
        with (
            session.api(patience=PATIENCE) as api,
            api.stream("POST", "/v1/chat/completions", body=body) as response,
        ):
            for piece in read(response.iter_lines(), answer):
                if out.as_json:
                    out.line({"event": "delta", "text": piece})
                else:
                    out.stream(piece)
    except httpx.TransportError as error:
        _end_line(out, answer)
        raise CliError(
            "the answer broke off: the connection was lost", fix="ask again; see `aistack status`"
        ) from error
    except BrokenAnswer:
        _end_line(out, answer)
        raise
    if out.as_json:
        out.line(
            {
                "event": "answer",
                "text": answer.text,
                "model": answer.model,
                "finish_reason": answer.finish_reason,
                "usage": answer.usage,
                "aistack": answer.aistack,
            }
        )
        return
    _end_line(out, answer)
    citations(out, answer.aistack)
    if answer.finish_reason == "length":
        out.note("the answer was cut at the model's limit")


def _end_line(out: Output, answer: Answer) -> None:
    if answer.pieces and not out.as_json and not answer.text.endswith("\n"):
        out.text("")


class BrokenAnswer(CliError):
    """The stream ended before the answer did."""


def read(lines: Iterable[str], answer: Answer) -> Iterator[str]:
    """Pieces of text from server-sent events; the rest goes into `answer`.

    Raises BrokenAnswer for an error event, and for an end without `[DONE]`: an answer that stops
    in the middle must not look like a short one.
    """
    for data in events(lines):
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError:
            raise BrokenAnswer("the answer broke off: an event is not JSON") from None
        if error := chunk.get("error"):
            message = error.get("message") if isinstance(error, dict) else str(error)
            identifier = error.get("error_id") if isinstance(error, dict) else None
            raise BrokenAnswer(
                f"the answer broke off: {message}", fix="ask again", error_id=identifier
            )
        answer.model = chunk.get("model") or answer.model
        answer.usage = chunk.get("usage") or answer.usage
        answer.aistack = chunk.get("aistack") or answer.aistack
        for choice in chunk.get("choices") or []:
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
            if piece := (choice.get("delta") or {}).get("content"):
                answer.pieces.append(piece)
                yield piece
    raise BrokenAnswer(
        "the answer broke off: the stream ended early", fix="ask again; see `aistack status`"
    )


def events(lines: Iterable[str]) -> Iterator[str]:
    """The data of each server-sent event (WHATWG HTML §9.2.6); comments and names are dropped."""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
    # An event without its closing blank line is incomplete and is dropped, as the standard says.


def citations(out: Output, extension: dict[str, Any]) -> None:
    """The numbered sources under an answer, and how far they carry it."""
    from rich.text import Text

    if extension.get("not_in_documents"):
        out.show(Text(f"\nNot in the documents of collection {extension.get('collection')}."))
        return
    cited = extension.get("citations") or []
    if cited:
        out.text("")
    for citation in cited:
        line = Text(f"[{citation['number']}] ", style="bold")
        line.append(clean(citation["source"] or citation.get("title") or "?"), style="cyan")
        if place := where(citation):
            line.append(f", {place}", style="dim")
        out.show(line)
        quote = " ".join(clean(citation["quote"]).split())
        out.indented(Text(f"“{quote}”", style="italic"), by=4)
    grounded = extension.get("grounded")
    if grounded is not None and grounded < 1 and extension.get("citations") is not None:
        out.note(f"{grounded:.0%} of the sentences are supported by the documents")
