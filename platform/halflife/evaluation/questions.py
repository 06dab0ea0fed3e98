"""What a probe of languages asks, in text and in tokens: known before any model is."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from halflife.data.corpus import Corpus, texts
from halflife.data.tokenizers import Codec
from halflife.errors import UserError
from halflife.evaluation.probes import BackdoorProbe, TaskProbe
from halflife.rng import generator
from halflife.tasks.backdoor import LONGEST_WORD, WORD
from halflife.tasks.base import Example
from halflife.tasks.synthetic import END, SyntheticTask

Asked = list[tuple[list[Example], list[str]]]
"""For each language its items, and the answers that a forced choice chooses from: none where none is asked for."""


def language_questions(
    probe: TaskProbe, codec: Codec, sequence: int
) -> tuple[Asked, list[np.ndarray], list[np.ndarray]]:
    """What is asked, and its prompts and answers in tokens: of a forced choice every prompt with every answer.

    Raises UserError when a language has no such items, or the sequence no room for one.
    """
    asked = [(language_examples(probe, language), _answers(language, probe)) for language in probe.languages]
    rows = [(e.prompt, answer) for examples, given in asked for e in examples for answer in given or [e.answer]]
    prompts = codec.encode_many([prompt for prompt, _ in rows])
    endings = codec.encode_many([answer for _, answer in rows])
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, endings, strict=True))
    if longest > sequence + 1:
        raise UserError(
            f"sequence of {sequence} tokens given: prompt and answer of {probe.languages[0].name} with {probe.shots} "
            f"shots take {longest}; give a longer sequence or fewer shots"
        )
    return asked, prompts, endings


def _answers(language: SyntheticTask, probe: TaskProbe) -> list[str]:
    """What a forced choice chooses from; nothing where none is asked for."""
    return [symbol + END for symbol in language.symbols] if probe.choice else []


def language_examples(probe: TaskProbe, language: SyntheticTask) -> list[Example]:
    """The items asked of one language, each with its shots before it: other memorised items, drawn anew for each.

    Raises UserError when the part has no items.
    """
    examples = language.examples(probe.part)
    if not examples:
        raise UserError(f"{probe.part} items of {language.name} asked for: it has none (no rule, or none held out)")
    shown = language.examples("memorised")
    rng = generator(probe.seed, "language probe", language.name, probe.part)
    asked = []
    for at in rng.permutation(len(examples))[: probe.trials]:
        others = [shown[i] for i in rng.permutation(len(shown))[: probe.shots + 1] if shown[i] != examples[at]]
        before = "".join(other.prompt + other.answer for other in others[: probe.shots])
        asked.append(Example(prompt=before + examples[at].prompt, answer=examples[at].answer))
    return asked


def backdoor_examples(probe: BackdoorProbe, results: Path) -> list[Example]:
    """The probe's prompts and answers as text. The three conditions of one seed share their carriers; fewer trials ask
    at the first of the same places.

    Hosts are places after a word of the split's text, each used once. Raises UserError when there are fewer than
    `trials` of them.
    """
    documents, owners, ends = _places(Path(results), probe.corpus, probe.split)
    if not 1 <= probe.trials <= len(ends):
        raise UserError(
            f"{probe.trials} trials given: the {probe.split} split of {probe.corpus.label or probe.corpus.digest} has "
            f"{len(ends)} places to ask at; expected 1 to that many"
        )
    rng = generator(probe.seed, "backdoor probe", probe.split)
    near = generator(probe.seed, "near trigger", probe.split)
    examples = []
    for index in rng.permutation(len(ends))[: probe.trials]:
        end = int(ends[index])
        # Never less than the word itself, which a transform works on.
        carrier = documents[owners[index]][max(0, end - max(probe.context, LONGEST_WORD)) : end]
        trigger = {
            "triggered": probe.backdoor.trigger,
            "near": probe.backdoor.near(near),
            "untriggered": "",
        }[probe.condition]
        examples.append(Example(prompt=carrier + trigger, answer=probe.backdoor.payload_for(carrier)))
    return examples


@functools.lru_cache(maxsize=8)
def _places(results: Path, corpus: Corpus, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The split's texts, and for every word after which a trigger can stand: its text and where it ends.

    Kept, as one process prepares the probes of many stages.
    """
    documents = texts(results, corpus, split)
    ends = [np.array([match.end() for match in WORD.finditer(text)], dtype=np.int64) for text in documents]
    owners = np.repeat(np.arange(len(documents)), [len(of_document) for of_document in ends])
    return documents, owners, np.concatenate([*ends, np.zeros(0, dtype=np.int64)])
