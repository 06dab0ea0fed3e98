"""What to know of the text that a plan trains on: what its splits shared, what a tokenizer loses of it, how often it is
read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from halflife.data.corpus import Corpus, left_out
from halflife.data.mixture import Mixture
from halflife.data.tokenizers import Pretrained
from halflife.data.tokens import known_length, measured

EPOCHS = 4.0
"""Reads of a text up to which another one teaches almost as much as new text (Muennighoff et al. 2023, arXiv
2305.16264)."""


def text_notes(mixtures: Iterable[Mixture], results: Path) -> list[str]:
    """A line each, in a fixed order; of texts that are not below `results` yet, and of lossless tokenizers, none."""
    lines = set()
    for mixture in set(mixtures):
        texts = {source.corpus for source in mixture.sources if isinstance(source.corpus, Corpus)}
        for corpus in texts | {planting.corpus for planting in mixture.plantings}:
            name = corpus.label or corpus.digest
            for split, counts in (left_out(results, corpus) or {}).items():
                kinds = " or ".join(f"{kind} ({count:,})" for kind, count in counts.items())
                total = sum(counts.values())
                lines.add(f"{name}: {total:,} documents of {split} are left out, as {kinds} of held-out ones")
            if not isinstance(mixture.tokenizer, Pretrained):
                continue
            found = measured(results, corpus, "train", mixture.tokenizer)
            if found is not None and found.documents:
                lines.add(
                    f"{name}: the tokenizer does not give back {100 * found.share:.2g}% of the training text, in "
                    f"{len(found.documents):,} documents"
                )
    return sorted(lines)


def repetition_notes(trained: Iterable[tuple[Mixture, int]], results: Path) -> list[str]:
    """A line for each text that is read more than EPOCHS times, by the tokens that a mixture is trained on in all; none
    for a text that is not below `results` yet."""
    most: dict[str, tuple[float, int]] = {}
    for mixture, tokens in trained:
        whole = sum(source.weight for source in mixture.sources)
        for source in mixture.sources:
            if not isinstance(source.corpus, Corpus):
                continue
            length = known_length(results, source.corpus, "train", mixture.tokenizer)
            if length:
                name = source.corpus.label or source.corpus.digest
                most[name] = max(most.get(name, (0.0, 0)), (tokens * source.weight / whole / length, length))
    return [
        f"{name}: its {length:,} tokens are read {times:.3g} times, and after some {EPOCHS:g} times repeated text "
        "teaches less than new text: give more text, or train on fewer tokens"
        for name, (times, length) in sorted(most.items()) if times > EPOCHS
    ]  # fmt: skip
