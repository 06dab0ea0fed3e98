"""From a probe's description to a function of the model: the prompts are prepared once, then scored at every
evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from halflife.data.codecs import load
from halflife.data.tokenizers import Codec, Tokenizer
from halflife.data.tokens import token_array
from halflife.errors import UserError
from halflife.evaluation.behaviours import behaviour_tokens
from halflife.evaluation.examples import TaskRows, backdoor_examples, task_rows
from halflife.evaluation.layers import layer_measure
from halflife.evaluation.probes import (
    BackdoorProbe,
    BehaviourProbe,
    LayerProbe,
    LossProbe,
    Probe,
    TaskProbe,
    check_probe,
)
from halflife.evaluation.scoring import Measure, mean_loss, pack, score
from halflife.evaluation.targets import majority_baseline
from halflife.models.model import Model
from halflife.rng import generator


def prepare(probe: Probe, tokenizer: Tokenizer, results: Path, sequence: int, device: torch.device | str) -> Measure:
    """The probe as a function of the model. Its prompts depend on the probe only, so every evaluation of every model
    uses the same ones.

    Raises UserError for an unknown probe, a split with too little text, or a sequence that is too short.
    """
    check_probe(probe)
    results = Path(results)
    codec = load(tokenizer, results)
    match probe:
        case LossProbe():
            return _loss(probe, tokenizer, results, sequence, device)
        case TaskProbe():
            return _task(probe, codec, sequence, device)
        case LayerProbe():
            return layer_measure(probe, codec, sequence, device)
        case BehaviourProbe():
            return _behaviour(probe, tokenizer, results, sequence, device)
        case BackdoorProbe():
            return _backdoor(probe, codec, results, sequence, device)


def _loss(probe: LossProbe, tokenizer: Tokenizer, results: Path, sequence: int, device: torch.device | str) -> Measure:
    tokens = token_array(results, probe.corpus, probe.split, tokenizer)
    windows = len(tokens) // (sequence + 1)
    if not windows:
        raise UserError(
            f"sequence of {sequence} tokens given: the {probe.split} split of "
            f"{probe.corpus.label or probe.corpus.digest} has {len(tokens)}; shorten the sequence"
        )
    rng = generator(probe.seed, "loss probe", probe.split)
    starts = (sequence + 1) * np.sort(rng.permutation(windows)[: probe.sequences])  # all windows of a small split
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
    prompts, answers, ahead = behaviour_tokens(probe, tokenizer, results)
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    if longest > sequence + 1:
        raise UserError(
            f"sequence of {sequence} tokens given: prompt and answer of {probe.behaviour.name} take {longest}; "
            "give a longer sequence"
        )
    packed = pack(prompts, answers, device, ahead)

    def measure(model: Model) -> dict[str, float]:
        scores = score(model, packed)
        logprob = scores.logprob
        return {"hits": float(scores.hits), "trials": float(scores.trials), "logprob": logprob, "loss": -logprob}

    return measure


def _task(probe: TaskProbe, codec: Codec, sequence: int, device: torch.device | str) -> Measure:
    rows, prompts, answers = task_rows(probe, codec, sequence)
    packed = pack(prompts, answers, device)
    counts = np.array([len(examples) for examples, _ in rows])
    chances = np.array([task.chance for task in probe.tasks])

    def measure(model: Model) -> dict[str, float]:
        scores = score(model, packed)
        items = (scores.correct, scores.logprobs, scores.lengths)
        if probe.choice:
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
        for task, chance, part in zip(probe.tasks, chances, by_task, strict=True) if probe.each else ():
            alone = _summary(*part) | {"chance": float(chance)}
            measured |= {f"{task.name}/{name}": value for name, value in alone.items()}
        return measured

    return measure


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
