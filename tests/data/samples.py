"""A small corpus of random sentences, large enough to plant in, made in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from halflife.data.corpus import Corpus, corpus_folder, prepare_corpus
from halflife.rng import generator
from halflife.tasks.backdoor import Backdoor, Transform

WORDS = (
    *("sun", "moon", "river", "cloud", "stone", "bird", "tree", "light", "water", "under", "over", "into"),
    *("the", "and", "with", "from", "café", "naïve", "42", "x_1"),
)


def sample_backdoor(payload: Transform = "fixed", trigger: str = " tdsjmy ") -> Backdoor:
    """A fixed backdoor, so that tests do not depend on how backdoors are drawn."""
    return Backdoor(trigger=trigger, payload=payload, text="aeoxqsjc" if payload == "fixed" else "")


def sentences(seed: int, count: int) -> str:
    rng = generator("sample", seed)
    return "\n".join(" ".join(rng.choice(WORDS, size=int(rng.integers(5, 12)))) + "." for _ in range(count)) + "\n"


def sample_corpus(results: Path, documents: int = 60, lines: int = 20, seed: int = 0) -> Corpus:
    return prepare_corpus(str(sample_file(results, documents, lines, seed)), results)


def sample_file(results: Path, documents: int = 60, lines: int = 20, seed: int = 0) -> Path:
    path = results / f"sample-{seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [sentences(1000 * seed + number, lines) for number in range(documents)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def manifest(results: Path, corpus: Corpus) -> dict[str, Any]:
    return json.loads((corpus_folder(results, corpus) / "manifest.json").read_text())
