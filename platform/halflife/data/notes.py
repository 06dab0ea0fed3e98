"""What to know of the text that a plan trains on: what its splits shared, and what a tokenizer loses of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from halflife.data.corpus import Corpus, left_out
from halflife.data.mixture import Mixture
from halflife.data.tokenizers import Pretrained
from halflife.data.tokens import measured


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
