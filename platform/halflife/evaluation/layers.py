"""Linear probes of every layer: is the answer in the residual stream, whether or not the model outputs it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from halflife.data.codecs import of_task
from halflife.data.tokenizers import Codec
from halflife.errors import UserError
from halflife.evaluation.probe import Measurement
from halflife.evaluation.scoring import evaluating
from halflife.models.model import Model
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.synthetic import SyntheticTask

FOLDS = 5
MOST = 1000
"""Items that a probe is fitted to: its cost is their cube. No task that comes with halflife has more."""
STRENGTHS = 10.0 ** np.arange(-6.0, 3.0)
"""Ridge penalties that are tried, in units of the mean squared norm of a residual."""
EPSILON = 1e-12
CHUNK_TOKENS = 4096
"""Tokens for which the residuals of all layers are in memory at once."""


@dataclass(frozen=True)
class _Split:
    """Indices of one task's items."""

    train: Tensor
    test: Tensor


def layer_measure(
    tasks: Sequence[SyntheticTask], trials: int, seed: int, codec: Codec, sequence: int, device: torch.device | str
) -> Measurement:
    """A probe of every layer as a function of the model: see `layer_probe.LayerProbe`.

    Raises UserError when a prompt is longer than the sequence, or a task has too few items to fit a probe.
    """
    prepared = [_Prepared(task, trials, seed, codec, sequence, device) for task in tasks]

    def measure(model: Model) -> dict[str, float]:
        hits = sum(each.hits(model) for each in prepared)  # (2, layers)
        count = sum(each.trials for each in prepared)
        chance = sum(each.trials * each.chance for each in prepared) / count
        measured: dict[str, float] = {}
        for layer, (right, control) in enumerate(np.asarray(hits).T.tolist()):
            values = {"hits": right, "trials": float(count), "chance": chance, "control": control}
            measured |= {f"{layer}/{name}": value for name, value in values.items()}
        return measured

    return measure


class _Prepared:
    """One task's items as token rows, with the targets of the linear probes."""

    def __init__(
        self, task: SyntheticTask, trials: int, seed: int, codec: Codec, sequence: int, device: torch.device | str
    ) -> None:
        rng = generator(seed, "layer probe", task.name)
        examples, splits = _items(task, trials, rng)
        prompts = of_task(task, codec).encode_many([example.prompt for example in examples])
        longest = max(map(len, prompts))
        if longest > sequence:
            raise UserError(
                f"sequence of {sequence} tokens given: a prompt of {task.name} takes {longest}; give a longer one"
            )
        rows = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in zip(rows, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.rows = torch.from_numpy(rows).to(device)
        self.last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        self.splits = [
            _Split(torch.as_tensor(train).to(device), torch.as_tensor(test).to(device)) for train, test in splits
        ]
        symbols = [symbol + task.end for symbol in task.symbols]
        self.codes = torch.from_numpy(one_hot_characters(symbols)).to(device)
        self.answers = torch.tensor([symbols.index(example.answer) for example in examples], device=device)
        self.shuffled = self.answers[torch.from_numpy(rng.permutation(len(examples))).to(device)]
        self.trials, self.chance = sum(len(test) for _, test in splits), task.chance

    def hits(self, model: Model) -> np.ndarray:
        """(2, layers): test items that the probe of each layer gets right, with the true answers and with shuffled
        ones (the control)."""
        found = []
        residuals = last_residuals(model, self.rows, self.last)
        for answers in (self.answers, self.shuffled):
            right = torch.zeros(len(residuals), device=residuals.device)
            for split in self.splits:
                targets = self.codes[answers[split.train]]
                predicted = ridge(residuals[:, split.train], targets, residuals[:, split.test])
                right += ((predicted @ self.codes.T).argmax(-1) == answers[split.test]).sum(-1)
            found.append(right.cpu().numpy())
        return np.stack(found)


def _items(
    task: SyntheticTask, trials: int, rng: np.random.Generator
) -> tuple[list[Example], list[tuple[np.ndarray, np.ndarray]]]:
    """The items, and the (train, test) splits of their indices."""
    memorised, held_out = (list(task.examples(part)) for part in ("memorised", "held-out"))
    if len(memorised) > MOST:
        memorised = [memorised[index] for index in rng.permutation(len(memorised))[:MOST]]
    fewest = len(memorised) if held_out else len(memorised) - -(-len(memorised) // FOLDS)
    if fewest < FOLDS:
        raise UserError(
            f"linear probe of {task.name} given: it has {len(memorised)} items to train on; expected a task with more"
        )
    if held_out:
        chosen = rng.permutation(len(held_out))[:trials] + len(memorised)
        return memorised + held_out, [(np.arange(len(memorised)), chosen)]
    folds = np.array_split(rng.permutation(len(memorised)), FOLDS)
    rest = [np.concatenate([other for other in folds if other is not fold]) for fold in folds]
    return memorised, list(zip(rest, folds, strict=True))


def one_hot_characters(answers: Sequence[str]) -> np.ndarray:
    """(answers, longest x alphabet): the character at each position, one-hot; past its end an answer has the character
    "". So a probe can predict an answer that it was not trained on, from characters that it shares with others."""
    longest = max(map(len, answers))
    letters = sorted({*"".join(answers), ""})
    codes = np.zeros((len(answers), longest, len(letters)))
    for row, answer in enumerate(answers):
        for position in range(longest):
            codes[row, position, letters.index(answer[position : position + 1])] = 1
    return codes.reshape(len(answers), -1)


def last_residuals(model: Model, rows: Tensor, last: Tensor) -> Tensor:
    """(layers + 1, rows, width), float64: the residual stream at position `last` of each row (rows, length)."""
    chunk = max(1, CHUNK_TOKENS // rows.shape[1])
    found = []
    with evaluating(model):
        for part, at in zip(rows.split(chunk), last.split(chunk), strict=True):
            each = torch.arange(len(part), device=part.device)
            found.append(torch.stack([layer[each, at].double() for layer in model.residuals(model.embed(part))]))
    return torch.cat(found, dim=1)


def ridge(features: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
    """Ridge regression with intercept, for all layers at once: features (layers, n, width), targets (n, outputs),
    queries (layers, m, width) -> predictions (layers, m, outputs).

    Solved in the n x n dual, so any width works. Each layer takes the penalty with the least squared leave-one-out
    error, which the hat matrix H gives in closed form: e_i / (1 - H_ii) (Allen 1974, Technometrics 16, 125).
    """
    mean, middle = features.mean(1, keepdim=True), targets.mean(0)
    centred, targets = features - mean, targets - middle
    values, vectors = torch.linalg.eigh(centred @ centred.mT)
    values = values.clamp(min=0)
    unit = values.mean(-1).clamp(min=EPSILON)
    strengths = unit[:, None] * torch.as_tensor(STRENGTHS).to(unit)  # (layers, strengths)
    kept = values[:, None] / (values[:, None] + strengths[..., None])  # (layers, strengths, n)
    along = vectors.mT @ targets  # (layers, n, outputs)
    error = targets - vectors[:, None] @ (kept[..., None] * along[:, None])
    hat = (vectors[:, None] ** 2 @ kept[..., None]).squeeze(-1) + 1 / len(targets)
    left_out = ((error / (1 - hat).clamp(min=EPSILON)[..., None]) ** 2).sum((-1, -2))
    best = strengths.gather(1, left_out.argmin(1, keepdim=True))
    weights = vectors @ (along / (values + best)[..., None])
    return middle + (queries - mean) @ (centred.mT @ weights)
