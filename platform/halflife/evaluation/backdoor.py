"""The probe of a backdoor, and its prompts and answers. They depend on the probe only, not on the model."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, texts
from halflife.errors import UserError, check_choice
from halflife.evaluation.majority import majority_baseline
from halflife.evaluation.probe import SHOWN, Measurement, Probe, Setting, Shown
from halflife.rng import generator
from halflife.tasks.backdoor import LONGEST_WORD, WORD, Backdoor
from halflife.tasks.base import Example
from halflife.tasks.behaviours import Split

Condition = Literal["triggered", "near", "untriggered"]


@dataclass(frozen=True, kw_only=True)
class BackdoorProbe(Probe):
    """Does the model output the payload, in held-out carriers? Measures `hits`, `trials`, `chance` and `logprob` (nats
    per payload token).

    triggered: the prompt ends in the trigger. near: one character of the trigger is changed (false positives).
    untriggered: the same prompts without the trigger.

    Several triggers take turns, and each also has `trigger-<number>/hits` and `/trials`.
    """

    backdoor: Backdoor
    corpus: Corpus
    condition: Condition = "triggered"
    split: Split = "validation"
    trials: int = 128
    context: int = 48
    """Characters of carrier text before the trigger, at most."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("condition of a backdoor probe", self.condition, get_args(Condition))

    def tokens_scored(self, sequence: int) -> float:
        longest = max(len(member.trigger) + len(member.longest_payload) for member in self.backdoor.members)
        return self.trials * min(sequence, self.context + longest)

    def prepare(self, setting: Setting) -> Measurement:
        from halflife.evaluation.scoring import pack, score  # imports torch

        codec, sequence = load(setting.tokenizer, setting.results), setting.sequence
        examples = backdoor_examples(self, setting.results)
        prompts = codec.encode_many([example.prompt for example in examples])
        answers = codec.encode_many([example.answer for example in examples])
        members = self.backdoor.members
        trigger = max(len(codec.encode(member.trigger)) for member in members)
        for answer in answers:
            if sequence + 1 - len(answer) < trigger + 1:
                raise UserError(
                    f"sequence of {sequence} tokens given: the prompt needs room for a trigger of {trigger} tokens "
                    f"before a payload of {len(answer)}; give a longer sequence"
                )
        shortened = [prompt[-(sequence + 1 - len(answer)) :] for prompt, answer in zip(prompts, answers, strict=True)]
        packed, chance = pack(shortened, answers, setting.device), majority_baseline(answers)

        def measure(model: Any) -> dict[str, float]:
            scores = score(model, packed)
            counts = {"hits": float(scores.hits), "trials": float(scores.trials), "chance": chance}
            for number in range(len(members)) if len(members) > 1 else ():
                own = scores.correct[number :: len(members)]
                task = f"trigger-{number + 1}"
                counts |= {f"{task}/hits": float(own.sum()), f"{task}/trials": float(len(own))}
            return {**counts, "logprob": scores.logprob}

        return measure

    def shown(self, setting: Setting) -> list[Shown]:
        examples = backdoor_examples(replace(self, trials=min(SHOWN, self.trials)), setting.results)
        lengths = [len(member.trigger) if self.condition != "untriggered" else 0 for member in self.backdoor.members]
        return [
            Shown(prompt=each.prompt, answer=each.answer, marked=each.prompt[len(each.prompt) - length :])
            for each, length in zip(examples, itertools.cycle(lengths), strict=False)
        ]


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
    for index, backdoor in zip(rng.permutation(len(ends))[: probe.trials], itertools.cycle(probe.backdoor.members)):
        end = int(ends[index])
        # at least the word before the trigger, which a transform needs
        carrier = documents[owners[index]][max(0, end - max(probe.context, LONGEST_WORD)) : end]
        trigger = {
            "triggered": backdoor.trigger,
            "near": backdoor.near(near),
            "untriggered": "",
        }[probe.condition]
        examples.append(Example(prompt=carrier + trigger, answer=backdoor.payload_for(carrier)))
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
