"""The prompts and answers that a probe evaluates. They depend on the probe only, not on the model."""

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

TaskRows = list[tuple[list[Example], list[str]]]
"""For each task its examples and the options of a forced choice, which are empty without `choice`."""


def task_rows(probe: TaskProbe, codec: Codec, sequence: int) -> tuple[TaskRows, list[np.ndarray], list[np.ndarray]]:
    """The examples of each task, and all prompts and answers in tokens: for a forced choice, every prompt with every
    option.

    Raises UserError when a task has no such items, or one does not fit the sequence.
    """
    rows = [(task_examples(probe, task), _options(task, probe)) for task in probe.tasks]
    pairs = [(e.prompt, answer) for examples, options in rows for e in examples for answer in options or [e.answer]]
    prompts = codec.encode_many([prompt for prompt, _ in pairs])
    answers = codec.encode_many([answer for _, answer in pairs])
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    if longest > sequence + 1:
        raise UserError(
            f"sequence of {sequence} tokens given: prompt and answer of {probe.tasks[0].name} with {probe.shots} "
            f"shots take {longest}; give a longer sequence or fewer shots"
        )
    return rows, prompts, answers


def _options(task: SyntheticTask, probe: TaskProbe) -> list[str]:
    return [symbol + END for symbol in task.symbols] if probe.choice else []


def task_examples(probe: TaskProbe, task: SyntheticTask) -> list[Example]:
    """The items of one task, each preceded by its shots: other memorised items, drawn for each prompt.

    Raises UserError when the part has no items.
    """
    examples = task.examples(probe.part)
    if not examples:
        raise UserError(f"{probe.part} items of {task.name} requested: it has none (no rule, or none held out)")
    memorised = task.examples("memorised")
    rng = generator(probe.seed, "language probe", task.name, probe.part)
    found = []
    for index in rng.permutation(len(examples))[: probe.trials]:
        drawn = [memorised[i] for i in rng.permutation(len(memorised))[: probe.shots + 1]]
        shots = [shot for shot in drawn if shot != examples[index]][: probe.shots]
        before = "".join(shot.prompt + shot.answer for shot in shots)
        found.append(Example(prompt=before + examples[index].prompt, answer=examples[index].answer))
    return found


def backdoor_examples(probe: BackdoorProbe, results: Path) -> list[Example]:
    """The probe's prompts and answers as text. The three conditions of one seed share their carriers, and fewer trials
    use the first of them.

    A carrier is the text before a place where a trigger can be inserted; each place is used once. Raises UserError when
    there are fewer than `trials` places.
    """
    documents, owners, ends = _places(Path(results), probe.corpus, probe.split)
    if not 1 <= probe.trials <= len(ends):
        raise UserError(
            f"{probe.trials} trials given: the {probe.split} split of {probe.corpus.label or probe.corpus.digest} has "
            f"{len(ends)} places for a trigger; expected 1 to that many"
        )
    rng = generator(probe.seed, "backdoor probe", probe.split)
    near = generator(probe.seed, "near trigger", probe.split)
    examples = []
    for index in rng.permutation(len(ends))[: probe.trials]:
        end = int(ends[index])
        # at least the word before the trigger, which a transform needs
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
    """The split's texts, and for every word that a trigger can follow: the index of its text and where it ends.

    Cached, as one process prepares the probes of many stages.
    """
    documents = texts(results, corpus, split)
    ends = [np.array([match.end() for match in WORD.finditer(text)], dtype=np.int64) for text in documents]
    owners = np.repeat(np.arange(len(documents)), [len(of_document) for of_document in ends])
    return documents, owners, np.concatenate([*ends, np.zeros(0, dtype=np.int64)])
