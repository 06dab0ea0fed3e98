"""From a probe's description to tokens: what is asked, which answer is right, under which conditions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from halflife.data.corpus import Corpus, texts
from halflife.data.tokenizers import Tokenizer, load
from halflife.data.tokens import token_array
from halflife.errors import UserError
from halflife.evaluation.probes import BackdoorProbe, BehaviourProbe, LanguageProbe
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.behaviours import Continuation

AnswerProbe = BackdoorProbe | LanguageProbe | BehaviourProbe
"""The probes that have answers."""


@dataclass(frozen=True)
class Asked:
    """Prompts and answers as token ids."""

    prompts: list[NDArray[np.int64]]
    answers: list[NDArray[np.int64]]
    conditions: NDArray[np.float32]
    """(trials, conditions); no columns where a behaviour has none."""
    ahead: int = 0
    """How far an answer's tokens lie beyond the next: see `tasks.behaviours.Continuation`."""

    @property
    def chance(self) -> float:
        """Success of always giving the commonest answer."""
        _, counts = np.unique([answer.tobytes() for answer in self.answers], return_counts=True)
        return float(counts.max() / len(self.answers))


def asked(probe: AnswerProbe, tokenizer: Tokenizer, results: Path) -> Asked:
    """What the probe asks: the same for every model, as it depends on the probe alone.

    Raises UserError where there are fewer examples than trials.
    """
    from halflife.evaluation.measure import backdoor_examples
    from halflife.evaluation.questions import language_examples

    results = Path(results)
    if isinstance(probe, BehaviourProbe) and isinstance(probe.behaviour, Continuation):
        return _windows(probe, probe.behaviour, tokenizer, results)
    if isinstance(probe, BehaviourProbe):
        examples = behaviour_examples(probe, results)
    elif isinstance(probe, LanguageProbe):
        examples = [example for language in probe.languages for example in language_examples(probe, language)]
    else:
        examples = backdoor_examples(probe, results)
    codec = load(tokenizer, results)
    return Asked(
        prompts=codec.encode_many([example.prompt for example in examples]),
        answers=codec.encode_many([example.answer for example in examples]),
        conditions=np.array([example.conditions for example in examples], dtype=np.float32),
    )


def behaviour_examples(probe: BehaviourProbe, results: Path) -> list[Example]:
    """The probe's examples as text."""
    behaviour = probe.behaviour
    if isinstance(behaviour, Continuation):
        raise ValueError("a continuation is cut in tokens: it has no examples as text")
    corpus = probe.corpus
    hosts = _hosts(probe, corpus, results) if behaviour.hosted and corpus is not None else []
    return list(behaviour.examples(probe.split, probe.trials, hosts))


def _hosts(probe: BehaviourProbe, corpus: Corpus, results: Path) -> list[str]:
    """Pieces of the split's documents, `context` characters each, none overlapping."""
    pieces = [
        document[start : start + probe.context]
        for document in texts(results, corpus, probe.split)
        for start in range(0, len(document) - probe.context + 1, probe.context)
    ]
    order = generator(probe.seed, "behaviour probe", probe.split).permutation(len(pieces))
    return [pieces[at] for at in order[: probe.trials]]


def _windows(probe: BehaviourProbe, behaviour: Continuation, tokenizer: Tokenizer, results: Path) -> Asked:
    """Windows of the split's text at places of their own."""
    if probe.corpus is None:
        raise ValueError("a continuation has a corpus")
    tokens = token_array(results, probe.corpus, probe.split, tokenizer)
    count = len(tokens) // behaviour.window
    if count < probe.trials:
        raise UserError(
            f"{probe.trials} windows of {behaviour.window} tokens asked for: the {probe.split} split of "
            f"{probe.corpus.label or probe.corpus.digest} has {count}"
        )
    order = generator(probe.seed, "behaviour probe", probe.split).permutation(count)[: probe.trials]
    starts = behaviour.window * np.sort(order)
    rows = np.stack([tokens[start : start + behaviour.window] for start in starts]).astype(np.int64)
    # the answer holds the tokens skipped as well: they are read, and the one `ahead` of them is what is right
    return Asked(
        prompts=list(rows[:, : behaviour.context]),
        answers=list(rows[:, behaviour.context :]),
        conditions=np.zeros((len(rows), 0), dtype=np.float32),
        ahead=behaviour.ahead,
    )
