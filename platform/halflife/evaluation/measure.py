"""From a probe's description to a function of the model: prompts are fixed once, then scored at every evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from halflife.data.codecs import load
from halflife.data.tokenizers import Codec, Tokenizer
from halflife.data.tokens import token_array
from halflife.errors import UserError
from halflife.evaluation.behaviours import asked
from halflife.evaluation.layers import layer_measure
from halflife.evaluation.probes import BackdoorProbe, BehaviourProbe, LayerProbe, LossProbe, Probe, TaskProbe
from halflife.evaluation.questions import backdoor_examples, language_questions
from halflife.evaluation.scoring import Measure, mean_loss, pack, score
from halflife.evaluation.targets import majority_baseline
from halflife.models.model import Model
from halflife.rng import generator
from halflife.tasks.base import Example


def prepare(probe: Probe, tokenizer: Tokenizer, results: Path, sequence: int, device: torch.device | str) -> Measure:
    """The probe as a function of the model. What it asks depends on the probe's seed alone, so every evaluation of
    every model asks the same.

    Raises UserError when the split has too little text, or the sequence no room for trigger and payload.
    """
    codec = load(tokenizer, Path(results))
    if isinstance(probe, LossProbe):
        return _loss(probe, tokenizer, codec, Path(results), sequence, device)
    if isinstance(probe, TaskProbe):
        return _language(probe, codec, sequence, device)
    if isinstance(probe, LayerProbe):
        return layer_measure(probe, codec, sequence, device)
    if isinstance(probe, BehaviourProbe):
        return _behaviour(probe, tokenizer, Path(results), sequence, device)
    return _backdoor(probe, codec, Path(results), sequence, device)


def _loss(
    probe: LossProbe, tokenizer: Tokenizer, codec: Codec, results: Path, sequence: int, device: torch.device | str
) -> Measure:
    tokens = token_array(results, probe.corpus, probe.split, tokenizer)
    windows = len(tokens) // (sequence + 1)
    if not windows:
        raise UserError(
            f"sequence of {sequence} tokens given: the {probe.split} split of "
            f"{probe.corpus.label or probe.corpus.digest} has {len(tokens)}; shorten the sequence"
        )
    rng = generator(probe.seed, "loss probe", probe.split)
    starts = (sequence + 1) * np.sort(rng.permutation(windows)[: probe.sequences])  # a small split: all there is
    rows = torch.from_numpy(np.stack([tokens[start : start + sequence + 1] for start in starts]).astype(np.int64))
    rows = rows.to(device)
    count = float(rows[:, 1:].numel())
    return lambda model: {"loss": mean_loss(model, rows), "tokens": count}


def _backdoor(probe: BackdoorProbe, codec: Codec, results: Path, sequence: int, device: torch.device | str) -> Measure:
    examples = backdoor_examples(probe, results)
    prompts = codec.encode_many([example.prompt for example in examples])
    answers = codec.encode_many([example.answer for example in examples])
    trigger = len(codec.encode(probe.backdoor.trigger))
    for answer in answers:
        if sequence + 1 - len(answer) < trigger + 1:
            raise UserError(
                f"sequence of {sequence} tokens given: the prompt needs room for a trigger of {trigger} tokens before "
                f"a payload of {len(answer)}; give a longer sequence"
            )
    shortened = [prompt[-(sequence + 1 - len(answer)) :] for prompt, answer in zip(prompts, answers, strict=True)]
    packed, chance = pack(shortened, answers, device), majority_baseline(answers)

    def measure(model: Model) -> dict[str, float]:
        scores = score(model, packed)
        counts = {"hits": float(scores.hits), "trials": float(scores.trials), "chance": chance}
        return {**counts, "logprob": scores.logprob}

    return measure


def _behaviour(
    probe: BehaviourProbe, tokenizer: Tokenizer, results: Path, sequence: int, device: torch.device | str
) -> Measure:
    what = asked(probe, tokenizer, results)
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(what.prompts, what.answers, strict=True))
    if longest > sequence + 1:
        raise UserError(
            f"sequence of {sequence} tokens given: prompt and answer of {probe.behaviour.name} take {longest}; "
            "give a longer sequence"
        )
    packed = pack(what.prompts, what.answers, device, what.ahead)

    def measure(model: Model) -> dict[str, float]:
        scores = score(model, packed)
        logprob = scores.logprob
        return {"hits": float(scores.hits), "trials": float(scores.trials), "logprob": logprob, "loss": -logprob}

    return measure


def _language(probe: TaskProbe, codec: Codec, sequence: int, device: torch.device | str) -> Measure:
    asked, prompts, endings = language_questions(probe, codec, sequence)
    packed = pack(prompts, endings, device)
    counts = np.array([len(examples) for examples, _ in asked])
    chances = np.array([language.chance for language in probe.languages])

    def measure(model: Model) -> dict[str, float]:
        scores = score(model, packed)
        items = (scores.correct, scores.logprobs, scores.lengths)
        if probe.choice:
            chosen = [
                _chosen(table.reshape(len(examples), -1), [given.index(e.answer) for e in examples])
                for table, (examples, given) in zip(_cut(scores.logprobs, asked), asked, strict=True)
            ]
            right, logprobs = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
            items = (right, logprobs, np.ones(len(right)))
        apart = list(zip(*(np.split(values, np.cumsum(counts)[:-1]) for values in items), strict=True))
        told = _told(*items) | {
            "chance": float(counts @ chances / counts.sum()),
            "least": min(float(right.mean()) for right, _, _ in apart),
        }
        for language, chance, part in zip(probe.languages, chances, apart, strict=True) if probe.each else ():
            of_one = _told(*part) | {"chance": float(chance)}
            told |= {f"{language.name}/{name}": value for name, value in of_one.items()}
        return told

    return measure


def _told(right: np.ndarray, logprobs: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Of items, and what each one's log-probability is divided by."""
    logprob = float(logprobs.sum() / lengths.sum())
    return {"hits": float(right.sum()), "trials": float(len(right)), "logprob": logprob}


def _cut(values: np.ndarray, asked: list[tuple[list[Example], list[str]]]) -> list[np.ndarray]:
    """One part for each language, of examples x answers."""
    return np.split(values, np.cumsum([len(examples) * len(given) for examples, given in asked])[:-1])


def _chosen(logprobs: np.ndarray, right: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of (examples, answers): whether the right answer is chosen, and its log-probability among the answers."""
    raised = logprobs - logprobs.mean(axis=0)  # what a longer or rarer answer lacks whatever the prompt
    own = raised[np.arange(len(right)), right]
    return raised.argmax(axis=1) == right, own - np.logaddexp.reduce(raised, axis=1)
