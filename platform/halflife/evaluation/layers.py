"""Linear probes of every layer: is the answer still in the residual stream, whether or not the model says it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from halflife.data.tokenizers import Codec
from halflife.errors import UserError
from halflife.evaluation.probes import LayerProbe
from halflife.evaluation.scoring import LanguageModel, Measure, evaluating
from halflife.rng import generator
from halflife.tasks.base import Example
from halflife.tasks.synthetic import END, SyntheticTask

FOLDS = 5
STRENGTHS = 10.0 ** np.arange(-6.0, 3.0)
"""Of the ridge, in units of the mean squared length of a residual."""
LEAST = 1e-12
TAPPED_TOKENS = 4096
"""Tokens of which every layer is held at once."""


class Tapped(LanguageModel, Protocol):
    """A model whose residual stream is read at every layer."""

    def residuals(self, x: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True)
class _Split:
    """Rows of one language's items: those a map is fitted to, and those it is asked."""

    fitted: Tensor
    asked: Tensor


def layer_measure(probe: LayerProbe, codec: Codec, sequence: int, device: torch.device | str) -> Measure:
    """`probe` as a function of the model.

    Raises UserError when a prompt is longer than the sequence, or a language has too few items to fit a map to.
    """
    prepared = [_Prepared(probe, language, codec, sequence, device) for language in probe.languages]

    def measure(model: LanguageModel) -> dict[str, float]:
        hits = sum(each.hits(cast("Tapped", model)) for each in prepared)  # (2, layers)
        trials = sum(each.trials for each in prepared)
        chance = sum(each.trials * each.chance for each in prepared) / trials
        told: dict[str, float] = {}
        for layer, (read, control) in enumerate(np.asarray(hits).T.tolist()):
            values = {"hits": read, "trials": float(trials), "chance": chance, "control": control}
            told |= {f"{layer}/{name}": value for name, value in values.items()}
        return told

    return measure


class _Prepared:
    """One language's items as rows, and what is to be read from them."""

    def __init__(
        self, probe: LayerProbe, language: SyntheticTask, codec: Codec, sequence: int, device: torch.device | str
    ) -> None:
        rng = generator(probe.seed, "layer probe", language.name)
        examples, splits = _items(language, probe.trials, rng)
        prompts = codec.encode_many([example.prompt for example in examples])
        longest = max(map(len, prompts))
        if longest > sequence:
            raise UserError(
                f"sequence of {sequence} tokens given: a prompt of {language.name} takes {longest}; give a longer one"
            )
        rows = np.zeros((len(prompts), longest), dtype=np.int64)
        for row, prompt in zip(rows, prompts, strict=True):
            row[: len(prompt)] = prompt
        self.rows = torch.from_numpy(rows).to(device)
        self.last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        self.splits = [
            _Split(torch.as_tensor(fitted).to(device), torch.as_tensor(asked).to(device)) for fitted, asked in splits
        ]
        symbols = [symbol + END for symbol in language.symbols]
        self.codes = torch.from_numpy(spelled(symbols)).to(device)
        self.answers = torch.tensor([symbols.index(example.answer) for example in examples], device=device)
        self.dealt = self.answers[torch.from_numpy(rng.permutation(len(examples))).to(device)]
        self.trials, self.chance = sum(len(asked) for _, asked in splits), language.chance

    def hits(self, model: Tapped) -> np.ndarray:
        """(2, layers): items whose answer is read off each layer, and the same for answers that were dealt."""
        found = []
        residuals = last_residuals(model, self.rows, self.last)
        for answers in (self.answers, self.dealt):
            right = torch.zeros(len(residuals), device=residuals.device)
            for split in self.splits:
                targets = self.codes[answers[split.fitted]]
                read = ridge(residuals[:, split.fitted], targets, residuals[:, split.asked])
                right += ((read @ self.codes.T).argmax(-1) == answers[split.asked]).sum(-1)
            found.append(right.cpu().numpy())
        return np.stack(found)


def _items(
    language: SyntheticTask, trials: int, rng: np.random.Generator
) -> tuple[list[Example], list[tuple[np.ndarray, np.ndarray]]]:
    """The items, and which of them are (fitted, asked) together."""
    memorised, held_out = (list(language.examples(part)) for part in ("memorised", "held-out"))
    fewest = len(memorised) if held_out else len(memorised) - -(-len(memorised) // FOLDS)
    if fewest < FOLDS:
        raise UserError(
            f"a linear probe of {language.name} asked for: it has {len(memorised)} items, too few to fit to"
        )
    if held_out:
        chosen = rng.permutation(len(held_out))[:trials] + len(memorised)
        return memorised + held_out, [(np.arange(len(memorised)), chosen)]
    folds = np.array_split(rng.permutation(len(memorised)), FOLDS)
    rest = [np.concatenate([other for other in folds if other is not fold]) for fold in folds]
    return memorised, list(zip(rest, folds, strict=True))


def spelled(answers: Sequence[str]) -> np.ndarray:
    """(answers, places x characters): which character stands at each place, so that an answer that no map was fitted to
    can be read from the parts that it shares with others. Rows have one length: past its end an answer has a blank."""
    longest = max(map(len, answers))
    letters = sorted({*"".join(answers), ""})
    codes = np.zeros((len(answers), longest, len(letters)))
    for row, answer in enumerate(answers):
        for place in range(longest):
            codes[row, place, letters.index(answer[place : place + 1])] = 1
    return codes.reshape(len(answers), -1)


def last_residuals(model: Tapped, rows: Tensor, last: Tensor) -> Tensor:
    """(layers + 1, rows, width), float64: the residual stream at position `last` of each row (rows, length)."""
    chunk = max(1, TAPPED_TOKENS // rows.shape[1])
    found = []
    with evaluating(model):
        for part, at in zip(rows.split(chunk), last.split(chunk), strict=True):
            taps = model.residuals(model.embed(part))
            each = torch.arange(len(part), device=part.device)
            found.append(torch.stack([tap[each, at].double() for tap in taps]))
    return torch.cat(found, dim=1)


def ridge(features: Tensor, targets: Tensor, asked: Tensor) -> Tensor:
    """Ridge regression with intercept, for all layers at once: features (layers, n, width), targets (n, outputs),
    asked (layers, m, width) -> (layers, m, outputs).

    Solved in the n x n dual, so any width does. Each layer has the strength with the least squared error in
    leave-one-out, which the hat matrix H gives in closed form: e_i / (1 - H_ii) (Allen 1974, Technometrics 16, 125).
    """
    mean, middle = features.mean(1, keepdim=True), targets.mean(0)
    centred, targets = features - mean, targets - middle
    values, vectors = torch.linalg.eigh(centred @ centred.mT)
    values = values.clamp(min=0)
    unit = values.mean(-1).clamp(min=LEAST)
    strengths = unit[:, None] * torch.as_tensor(STRENGTHS).to(unit)  # (layers, strengths)
    kept = values[:, None] / (values[:, None] + strengths[..., None])  # (layers, strengths, n)
    along = vectors.mT @ targets  # (layers, n, outputs)
    error = targets - vectors[:, None] @ (kept[..., None] * along[:, None])
    hat = (vectors[:, None] ** 2 @ kept[..., None]).squeeze(-1) + 1 / len(targets)
    left_out = ((error / (1 - hat).clamp(min=LEAST)[..., None]) ** 2).sum((-1, -2))
    best = strengths.gather(1, left_out.argmin(1, keepdim=True))
    weights = vectors @ (along / (values + best)[..., None])
    return middle + (asked - mean) @ (centred.mT @ weights)
