"""Make the golden vectors: what sentence-transformers gives in float32 for a few texts.

    python tests/golden/make_vectors.py

needs the torch extra. Made with sentence-transformers 6.2.0, transformers 5.23.0 and torch 2.13.0
on a CPU; every engine must agree with them to a cosine of 1 - 1e-5.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from sentence_transformers import SentenceTransformer

from aistack.models import find_model

HERE = Path(__file__).parent

TEXTS = [
    "a",
    "The dog.",
    "How do I enable the OpenSSH daemon on NixOS?",
    "services.openssh.enable = true;",
    "eating food",
    "having a meal",
    "stock market",
    "Ein Satz mit Umlauten: Äpfel, Öl, Übermut und Straße.",
    "Ἐν ἀρχῇ ἦν ὁ λόγος",
    "深層学習は多層のニューラルネットワークを使う。",
    "مرحبا بالعالم",
    "emoji 👩‍👩‍👧‍👦 and 🇩🇪, cafe\u0301 with a combining accent",
    "  spaces\tand\n\nnew lines   everywhere  ",
    "control\u0000characters\u200b and a soft\u00adhyphen",
    "def encode(texts: list[str]) -> np.ndarray:\n    return model(texts)  # (n, d)",
    "x" * 300,
    "retrieval augmented generation " * 20,
    "A text that is longer than the model reads is cut at its end. " * 60,
]


def main() -> None:
    """Write the texts, their token counts and their vectors beside this file."""
    files = find_model(None)
    model = SentenceTransformer(str(files.directory), device="cpu")
    vectors = model.encode(TEXTS, batch_size=1, normalize_embeddings=True).astype(np.float32)
    tokens = [int(np.asarray(model.preprocess([text])["attention_mask"]).sum()) for text in TEXTS]
    np.save(HERE / f"{files.name}.npy", vectors)
    described = {"revision": files.revision(), "texts": TEXTS, "tokens": tokens}
    path = HERE / f"{files.name}.json"
    path.write_text(json.dumps(described, ensure_ascii=True, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
