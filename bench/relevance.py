"""Where the relevance floor lies: best cosine of on-topic and off-topic questions.

    python bench/relevance.py ../shared/data/nix-dev [--json]

Chunks the Markdown files as ingestion does, embeds them with the packaged model, and prints for
each floor how many on-topic questions would be refused and how many off-topic ones answered. The
odd questions choose, the even ones report.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aistack.aidb.chunking import Chunker
from aistack.aidb.parsing import parse
from aistack.config import AidbConfig, EmbeddingsConfig
from aistack.coordinator.evidence import Passage
from aistack.coordinator.retrieval import Retrieved, lexical_share, relevant
from aistack.embeddings.encoder import Encoder, Vectors
from aistack.embeddings.engines import open_encoder

FLOORS = range(24, 52, 2)  # hundredths

ON_TOPIC = """
How do I pin Nixpkgs to a specific version?
What is a flake?
Which channel branch should I use on macOS?
How can I set up a binary cache?
What does the post-build hook do?
How do I sign store objects?
How do I format Nix code automatically?
What is callPackage for?
How do I install NixOS on a Raspberry Pi?
How can I offload builds to another machine?
How do I run a program that was not built for Nix?
What does mkShell do?
How do I write a reproducible script with a shebang?
How do I build a Docker image with Nix?
How can I test a NixOS configuration in a virtual machine?
How do I cross compile a package for ARM?
Why should I avoid with at the top of a file?
What are module options and how do I declare one?
Where does the name Nix come from?
How do I select which files of a directory go into a build?
How do I set environment variables in a development shell?
How do I activate an environment when I enter a directory?
What is the difference between stable and rolling releases?
How do I write an integration test for NixOS?
How can I deploy NixOS with Terraform?
How do I package software that uses make?
What is an attribute set?
How do I use GitHub Actions with a Nix cache?
How do I fix a corrupt Nix database?
What is string interpolation in Nix?
How do I share dependencies between the shell and the build?
How do I set up a Python environment with Nix?
What should I do when macOS updates break my installation?
How can I contribute to the documentation?
Are there impurities left in sandboxed builds?
How do I uninstall Nix?
What does fetchTarball do?
How do I provision a remote machine?
What is npins?
How do I enable flakes?
""".strip().splitlines()

# Nothing in the collection answers these; the second half is as near to it as computing gets.
OFF_TOPIC = """
What is the capital of Peru?
How long do I boil an egg?
Who wrote Pride and Prejudice?
What are the symptoms of influenza?
How do I change a bicycle tyre?
When did the Second World War end?
How far is the moon from the earth?
What is the best way to grow tomatoes?
How do I file my income tax?
Who won the football world cup in 2014?
What is the boiling point of ethanol?
How do I play the guitar?
What is the population of Canada?
How do vaccines work?
Which wine goes with fish?
What is the plot of Hamlet?
How do I train a puppy?
What causes inflation?
How is cheese made?
How do I apply for a passport?
How do I create an index in MongoDB?
What does the Windows registry do?
How do I resize an image in Photoshop?
How do I write a formula in Excel?
What is the difference between TCP and UDP?
How do I reverse a linked list in Java?
How does garbage collection work in Go?
How do I centre a div with CSS?
What is a Kubernetes ingress?
How do I train a neural network with PyTorch?
How do I add a user in Active Directory?
How do I write a React hook?
What is a foreign key in SQL?
How do I set up an iPhone?
How do I configure a Cisco router?
What is the time complexity of quicksort?
How do I install an app from the Play Store?
How do I make a pivot table?
How do I rebase a branch in Mercurial?
What is a smart contract in Ethereum?
""".strip().splitlines()


@dataclass(frozen=True, slots=True)
class Row:
    """One question and what a dense search finds for it."""

    question: str
    on_topic: bool
    found: Retrieved

    @property
    def cosine(self) -> float:
        return self.found.best_cosine or 0.0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows, chunks = measure(arguments.directory)
    table = {
        name: {f"{floor / 100:.2f}": wrong(rows[half::2], floor / 100) for floor in FLOORS}
        for half, name in ((0, "tune (odd)"), (1, "report (even)"))
    }
    if arguments.json:
        print(json.dumps({"chunks": chunks, "refused_answered": table}, indent=1))
        return
    print(f"{chunks} chunks, {len(ON_TOPIC)} on-topic, {len(OFF_TOPIC)} off-topic questions")
    for name, floors in table.items():
        print(name)
        for floor, (refused, answered) in floors.items():
            print(f"  floor {floor}: on-topic refused {refused:2}, off-topic answered {answered:2}")
    for row in sorted(rows, key=lambda r: r.cosine):
        share = lexical_share(row.question, row.found.passages)
        print(f"{row.cosine:.3f} {share:.2f} {'on ' if row.on_topic else 'off'} {row.question}")


def measure(directory: Path) -> tuple[list[Row], int]:
    """Every question with its five best passages, and the number of chunks."""
    with tempfile.TemporaryDirectory() as state:
        files, encoder = open_encoder(EmbeddingsConfig(threads=2, state_dir=Path(state)))
        settings = AidbConfig()
        chunker = Chunker(files.tokenizer, settings.chunk_tokens, settings.chunk_overlap)
        passages: list[Passage] = []
        texts: list[str] = []
        for path in sorted(directory.rglob("*.md")):
            document = parse(path.read_bytes(), "text/markdown")
            name = str(path.relative_to(directory))
            for chunk in chunker.chunk(document):
                passages.append(
                    Passage(
                        document_id=name,
                        chunk_id=f"{name}#{chunk.ordinal}",
                        source=name,
                        title=document.title or name,
                        text=chunk.text,
                        char_start=chunk.char_start,
                        char_end=chunk.char_end,
                        heading_path=chunk.heading_path,
                    )
                )
                texts.append(chunk.embed_text)
        vectors = embed(encoder, texts)
        asked = [(q, True) for q in ON_TOPIC] + [(q, False) for q in OFF_TOPIC]
        questions = embed(encoder, [q for q, _ in asked])
    rows = []
    for (question, on_topic), vector in zip(asked, questions, strict=True):
        cosines = vectors @ vector
        best = np.argsort(-cosines)[:5]
        found = tuple(passages[i] for i in best)
        rows.append(Row(question, on_topic, Retrieved(found, float(cosines[best[0]]), 0.0)))
    return rows, len(passages)


def embed(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """(n, d), in the order of `texts`; texts of like length share a pass."""
    tokens = encoder.tokenize(texts)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    out = np.empty((len(texts), encoder.identity.dimension), dtype=np.float32)
    for first in range(0, len(order), 16):
        part = order[first : first + 16]
        out[part] = encoder.encode([tokens[i] for i in part])
    return out


def wrong(rows: Sequence[Row], floor: float) -> tuple[int, int]:
    """On-topic questions refused, off-topic questions answered."""
    passed = [(row.on_topic, relevant(row.question, row.found, floor)) for row in rows]
    return passed.count((True, False)), passed.count((False, True))


if __name__ == "__main__":
    main()
