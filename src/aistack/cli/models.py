"""`aistack models`: the embedding model's graph, and which engine runs it in which precision."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aistack.cli.errors import CliError, Usage
from aistack.cli.session import Session, command

if TYPE_CHECKING:
    from aistack.config import EmbeddingsConfig
    from aistack.embeddings.choice import Trial
    from aistack.embeddings.choice_file import Candidate

models_app = typer.Typer(no_args_is_help=True, help="The embedding model and its engine.")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Where [embeddings] is (default: of the running stack).",
        metavar="FILE",
    ),
]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state", help="Where graph and choice are kept, over embeddings.state_dir.", metavar="DIR"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(models_app, name="models", rich_help_panel="The stack")


@command(models_app, "prepare")
def prepare(
    session: Session,
    model: Annotated[
        Path | None,
        typer.Option(help="Directory of a model, over embeddings.model.", metavar="DIR"),
    ] = None,
    encoder: Annotated[
        Literal["auto", "onnx", "openvino", "torch"] | None,
        typer.Option(help="Prepare this engine only, over embeddings.encoder."),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None,
        typer.Option(help="Prepare this precision only, over embeddings.precision."),
    ] = None,
    choose: Annotated[
        bool,
        typer.Option(
            "--choose", help="Choose anew; every document is then embedded again if it changes."
        ),
    ] = False,
    config: ConfigOption = None,
    state: StateOption = None,
) -> None:
    """Make the model's graph, compare the installed engines, and keep the choice of one.

    Vectors are compared with those of torch where it is installed, else of onnx in fp32. A choice
    that stands is left as it is without --choose. The service reads it at its next start.
    """
    from aistack.embeddings import choice
    from aistack.embeddings.choice_file import ChoiceFile
    from aistack.embeddings.engines import open_model

    said = {"model": model, "encoder": encoder, "precision": precision}
    settings = configured(session, config, state, said)
    files, revision = open_model(settings)
    file = ChoiceFile(settings.state_dir, files, revision)
    known, _ = file.read()
    standing = known.candidate if known else None
    if known is None and choice.from_before(files, revision, settings):
        standing = choice.BEFORE
    torch = importlib.util.find_spec("sentence_transformers") is not None
    trial = choice.measure(
        choice.candidates(settings, torch=torch),
        choice.opener(files, revision, settings),
        references=sorted(choice.FP32, key=lambda one: one.engine != "torch"),
        every=True,
    )
    winner = choice.pick(trial)
    kept = standing if standing is not None and not choose else winner
    written = known is None or kept != known.candidate
    if written:
        file.write(choice.decided(kept, trial))
    report(session, settings, trial, kept, winner, written=written)


@command(models_app, "list")
def list_(session: Session, config: ConfigOption = None, state: StateOption = None) -> None:
    """Show the models that have a graph or a choice here, and the configured one."""
    from aistack.embeddings.choice_file import NAME, entries, model_key
    from aistack.embeddings.engines import open_model

    settings = configured(session, config, state, {})
    files, revision = open_model(settings)
    mine = model_key(files, revision)
    try:
        choices = entries(settings.state_dir)
    except (ValueError, AttributeError) as error:
        raise CliError(
            f"{settings.state_dir / NAME} is damaged ({error})",
            fix="`aistack models prepare` writes it anew",
        ) from error
    graphs: dict[str, int] = {}
    for path in sorted(settings.state_dir.glob("*-v*-*.onnx")):
        graphs["-".join(path.name.split("-")[:2])] = path.stat().st_size
    rows = []
    for key in dict.fromkeys([mine, *choices, *graphs]):
        entry = choices.get(key, {})
        rows.append(
            {
                "model": files.name if key == mine else entry.get("model"),
                "key": key,
                "configured": key == mine,
                "engine": entry.get("engine"),
                "precision": entry.get("precision"),
                "reason": entry.get("reason"),
                "graph_bytes": graphs.get(key),
            }
        )
    if session.out.as_json:
        session.out.document({"state_dir": str(settings.state_dir), "models": rows})
        return
    from aistack.cli.output import size

    session.out.table(
        ("model", "key", "engine", "graph", ""),
        [
            (
                row["model"] or "?",
                row["key"],
                f"{row['engine']} {row['precision']} ({row['reason']})" if row["engine"] else "-",
                size(row["graph_bytes"]) if row["graph_bytes"] else "-",
                "configured" if row["configured"] else "",
            )
            for row in rows
        ],
    )


def configured(
    session: Session, config: Path | None, state: Path | None, said: dict[str, Any]
) -> EmbeddingsConfig:
    """The [embeddings] that is meant, under what was said on the command line."""
    from aistack.cli.endpoint import running
    from aistack.config import EmbeddingsConfig, load_config
    from aistack.models import find_model

    if config is None:
        found = running(session.data_dir)
        if found is not None and found.alive():
            config = found.run_dir / "embeddings.json"
            if not config.exists():
                raise Usage(
                    f"the running stack has no {config}",
                    fix="name the configuration of its embeddings service with --config",
                )
    table = load_config(config).embeddings.model_dump()
    if config is None:
        table["state_dir"] = session.data_dir / "embeddings"
    if said.get("model") is not None:
        # What the configuration says of its own model does not hold for another.
        other = find_model(said["model"])
        table |= {"dimension": other.dimension, "dimensions": (), "revision": None}
    if state is not None:
        table["state_dir"] = state
    table |= {key: value for key, value in said.items() if value is not None}
    return EmbeddingsConfig.model_validate(table)


def report(
    session: Session,
    settings: EmbeddingsConfig,
    trial: Trial,
    kept: Candidate,
    winner: Candidate,
    *,
    written: bool,
) -> None:
    """What was measured, and what the service will run."""
    if session.out.as_json:
        session.out.document(
            {
                "model": trial.compared.model,
                "revision": trial.compared.revision,
                "state_dir": str(settings.state_dir),
                "compared_with": [trial.compared.engine, trial.compared.precision],
                "chosen": list(kept),
                "fastest": list(winner),
                "written": written,
                "engines": [
                    {
                        "engine": one.candidate.engine,
                        "precision": one.candidate.precision,
                        "cosine": one.cosine,
                        "texts_per_second": one.rate,
                        "fault": one.fault,
                    }
                    for one in trial.measured
                ],
            }
        )
        return
    session.out.table(
        ("engine", "precision", "cosine", "texts/s", ""),
        [
            (
                one.candidate.engine,
                one.candidate.precision,
                "-" if one.cosine is None else f"{one.cosine:.5f}",
                "-" if one.rate is None else f"{one.rate:.0f}",
                "chosen" if one.candidate == kept else one.fault,
            )
            for one in trial.measured
        ],
    )
    compared = f"{trial.compared.engine} {trial.compared.precision}"
    session.out.text(f"{trial.compared.model}, compared with {compared}; {settings.state_dir}")
    if kept != winner:
        session.out.note(
            f"{kept} was chosen before and stands; with --choose it is {winner}, and every document"
            " is embedded again"
        )
