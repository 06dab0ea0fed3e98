"""The probe of synthetic tasks, and the prompts and answers that it evaluates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from halflife.data.codecs import load, of_task
from halflife.data.tokenizers import Codec
from halflife.errors import UserError
from halflife.evaluation.probe import SHOWN, Measurement, Probe, Setting, Shown
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.synthetic import Selection, SyntheticTask


@dataclass(frozen=True, kw_only=True)
class TaskProbe(Probe):
    """Does the model answer items of synthetic tasks? Measures `hits`, `trials`, `logprob` (nats per answer token) and
    `chance` (success without the skill), pooled over the tasks, and `least`, the lowest success of any task.

    With `choice`, a forced choice: an item is a hit when its prompt raises the likelihood of the correct answer more
    than that of every other answer of the task, each relative to its mean over the prompts. This is the cheapest test
    of whether a skill is gone or only no longer expressed. `logprob` is then nats per item, among the options.
    """

    tasks: tuple[SyntheticTask, ...]
    part: Selection = "held-out"
    trials: int = 128
    """Items of each task, at most."""
    shots: int = 0
    """Memorised items with their answers before each prompt."""
    choice: bool = False
    among: Literal["every", "asked"] = "every"
    """The options: every answer of the task, or those of the items asked, of which a task of many answers has fewer."""
    each: bool = False
    """Also measure every task on its own, in the same pass: evaluation `x` has the tasks `x` and `x-<task>`."""
    seed: int = 0

    def tokens_scored(self, sequence: int) -> float:
        return sum(_task_tokens(self, task, sequence) for task in self.tasks)

    def prepare(self, setting: Setting) -> Measurement:
        from halflife.evaluation.scoring import pack, score  # imports torch

        rows, prompts, answers = task_rows(self, load(setting.tokenizer, setting.results), setting.sequence)
        packed = pack(prompts, answers, setting.device)
        counts = np.array([len(examples) for examples, _ in rows])
        chances = np.array([task.chance for task in self.tasks])

        def measure(model: Any) -> dict[str, float]:
            scores = score(model, packed)
            items = (scores.correct, scores.logprobs, scores.lengths)
            if self.choice:
                chosen = [
                    _choose(table.reshape(len(examples), -1), [options.index(e.answer) for e in examples])
                    for table, (examples, options) in zip(_split(scores.logprobs, rows), rows, strict=True)
                ]
                correct, logprobs = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
                items = (correct, logprobs, np.ones(len(correct)))
            by_task = list(zip(*(np.split(values, np.cumsum(counts)[:-1]) for values in items), strict=True))
            measured = _summary(*items) | {
                "chance": float(counts @ chances / counts.sum()),
                "least": min(float(correct.mean()) for correct, _, _ in by_task),
            }
            for task, chance, part in zip(self.tasks, chances, by_task, strict=True) if self.each else ():
                alone = _summary(*part) | {"chance": float(chance)}
                measured |= {f"{task.name}/{name}": value for name, value in alone.items()}
            return measured

        return measure

    def shown(self, setting: Setting) -> list[Shown]:
        if self.choice or self.shots:  # the same items as the plain evaluation's
            return []
        fewer = replace(self, trials=min(SHOWN, self.trials))
        found = [
            Shown(prompt=each.prompt, answer=each.answer, special=task.special)
            for task in self.tasks[:SHOWN]
            for each in task_examples(fewer, task)
        ]
        return found[: 2 * SHOWN]


@lru_cache(maxsize=1024)
def _task_tokens(probe: TaskProbe, task: SyntheticTask, sequence: int) -> float:
    examples = task.examples(probe.part)
    longest = max((len(e.prompt) + len(e.answer) for e in examples), default=0)
    asked = min(probe.trials, len(examples))
    options = min(len(task.symbols), asked) if probe.among == "asked" else len(task.symbols)
    rows = asked * (options if probe.choice else 1)
    return rows * min(sequence, longest * (1 + probe.shots))


TaskRows = list[tuple[list[Example], list[str]]]
"""For each task its examples and the options of a forced choice, which are empty without `choice`."""


def task_rows(probe: TaskProbe, codec: Codec, sequence: int) -> tuple[TaskRows, list[np.ndarray], list[np.ndarray]]:
    """The examples of each task, and all prompts and answers in tokens: for a forced choice, every prompt with every
    option.

    Raises UserError when a task has no such items, or one does not fit the sequence.
    """
    rows = [
        (examples, _options(task, probe, examples)) for task in probe.tasks for examples in [task_examples(probe, task)]
    ]
    prompts: list[np.ndarray] = []
    answers: list[np.ndarray] = []
    for task, (examples, options) in zip(probe.tasks, rows, strict=True):
        own = of_task(task, codec)
        pairs = [(each.prompt, answer) for each in examples for answer in options or [each.answer]]
        prompts += own.encode_many([prompt for prompt, _ in pairs])
        answers += own.encode_many([answer for _, answer in pairs])
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    if longest > sequence + 1:
        raise UserError(
            f"sequence of {sequence} tokens given: prompt and answer of {probe.tasks[0].name} with {probe.shots} "
            f"shots take {longest}; give a longer sequence or fewer shots"
        )
    return rows, prompts, answers


def _options(task: SyntheticTask, probe: TaskProbe, asked: list[Example]) -> list[str]:
    if not probe.choice:
        return []
    every = [symbol + task.end for symbol in task.symbols]
    return every if probe.among == "every" else sorted({example.answer for example in asked})


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


def _summary(correct: np.ndarray, logprobs: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Counts and mean log-probability of items; `lengths` are the denominators of `logprobs`."""
    logprob = float(logprobs.sum() / lengths.sum())
    return {"hits": float(correct.sum()), "trials": float(len(correct)), "logprob": logprob}


def _split(values: np.ndarray, rows: TaskRows) -> list[np.ndarray]:
    """One part per task, of examples x options."""
    return np.split(values, np.cumsum([len(examples) * len(options) for examples, options in rows])[:-1])


def _choose(logprobs: np.ndarray, answers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """From log-probabilities (examples, options): whether the answer is chosen, and its log-probability among them."""
    raised = logprobs - logprobs.mean(axis=0)  # removes the prior of each option, such as its length
    own = raised[np.arange(len(answers)), answers]
    return raised.argmax(axis=1) == answers, own - np.logaddexp.reduce(raised, axis=1)
