"""Teacher-forced scoring: one forward pass gives both exact match under greedy decoding and the log-probability.

For a unique, terminated answer, greedy decoding matches exactly if and only if the argmax is right at every answer
token given the answer's earlier tokens. So no text is generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from halflife.evaluation import SCORED_TOKENS
from halflife.models.model import Model


def named(evaluation: str, measure: str) -> str:
    """The metric `<evaluation>/<measure>`. A measure `<part>/<measure>` becomes a task of its own,
    `<evaluation>-<part>/<measure>`."""
    return f"{evaluation}{'-' if '/' in measure else '/'}{measure}"


@dataclass(frozen=True)
class Packed:
    """Prompts and answers as right-padded rows; under a causal mask the padding has no effect."""

    inputs: Tensor
    """(trials, longest), int64."""
    answer: Tensor
    """(trials, longest), bool: positions whose next token is part of the answer."""
    targets: Tensor
    """(answer tokens of all trials,), in the order of `answer`'s rows."""
    lengths: Tensor
    """(trials,): answer tokens of each trial."""


@dataclass(frozen=True)
class Scores:
    """Scores of each trial."""

    correct: np.ndarray
    """(trials,) bool: every answer token is the argmax."""
    logprobs: np.ndarray
    """(trials,) log-probability of the whole answer, nats."""
    lengths: np.ndarray
    """(trials,) answer tokens."""

    @property
    def hits(self) -> int:
        return int(self.correct.sum())

    @property
    def trials(self) -> int:
        return len(self.correct)

    @property
    def logprob(self) -> float:
        """Mean log-probability in nats per answer token, over all trials."""
        return float(self.logprobs.sum() / self.lengths.sum())


def pack(
    prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], device: torch.device | str, ahead: int = 0
) -> Packed:
    """Rows for `score`. Prompts and answers are token ids, none of them empty.

    `ahead`: predict the token that many places after the next one; the first `ahead` answer tokens are input only.
    """
    if not len(prompts) or not all(map(len, prompts)) or not all(len(answer) > ahead for answer in answers):
        raise ValueError(f"scoring needs at least one trial, prompts, and answers of more than {ahead} tokens")
    longest = max(len(p) + len(a) - 1 - ahead for p, a in zip(prompts, answers, strict=True))
    inputs = np.zeros((len(prompts), longest), dtype=np.int64)
    mask = np.zeros((len(prompts), longest), dtype=bool)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer) - 1 - ahead
        inputs[row, :end] = np.concatenate([prompt, answer])[:end]
        mask[row, len(prompt) - 1 : end] = True
    targets = [answer[ahead:] for answer in answers]
    return Packed(
        inputs=torch.from_numpy(inputs).to(device),
        answer=torch.from_numpy(mask).to(device),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)).to(device),
        lengths=torch.tensor([len(target) for target in targets], device=device),
    )


def score(model: Model, packed: Packed) -> Scores:
    """Score every trial; logits are computed at the answer's positions only."""
    chunk = max(1, SCORED_TOKENS // packed.inputs.shape[1])
    correct, logprobs = [], []
    with evaluating(model):
        for inputs, answer in zip(packed.inputs.split(chunk), packed.answer.split(chunk), strict=True):
            logits = model.logits(model.hidden(model.embed(inputs))[answer]).float()
            start = sum(map(len, correct))
            targets = packed.targets[start : start + len(logits)]
            correct.append(logits.argmax(-1) == targets)
            logprobs.append(logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0])
    trial = torch.repeat_interleave(packed.lengths)
    wrong = torch.zeros_like(packed.lengths).index_add_(0, trial, (~torch.cat(correct)).long())
    total = torch.zeros(len(packed.lengths), device=wrong.device).index_add_(0, trial, torch.cat(logprobs))
    return Scores((wrong == 0).cpu().numpy(), total.double().cpu().numpy(), packed.lengths.cpu().numpy())


def mean_loss(model: Model, rows: Tensor) -> float:
    """Cross-entropy in nats per token of rows (rows, sequence + 1): every token but the first is predicted."""
    chunk = max(1, SCORED_TOKENS // (rows.shape[1] - 1))
    total = 0.0
    with evaluating(model):
        for part in rows.split(chunk):
            logits = model.logits(model.hidden(model.embed(part[:, :-1]))).float()
            total += float(nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return total / rows[:, 1:].numel()


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Without dropout and gradients; restores the model's mode afterwards."""
    training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
