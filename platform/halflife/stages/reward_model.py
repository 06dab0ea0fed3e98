"""A reward learned from preferences between documents, and the policy gradient's reward by it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halflife.data.attributes import AttributeText
from halflife.errors import UserError
from halflife.evaluation.targets import Item
from halflife.rng import generator
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage
from halflife.training.rewards import Reward, RewardSetting, Score

if TYPE_CHECKING:
    from torch import Tensor

FILE = "reward.safetensors"


@dataclass(frozen=True, kw_only=True)
class FitReward(Stage):
    """A copy of the subject that scores documents, trained on preferences between two (Bradley and Terry 1952, as in
    arXiv 2203.02155): P(the first is preferred) = sigmoid(r(first) - r(second)). The reward r is linear in the mean
    over the document's tokens of the last activations; all weights are trained, by Adam.

    Pairs are documents of `text`. Labels are drawn with the exact probability by which r is the log-probability of the
    values `told` at the document's end: that reward is what they teach.

    Points at step 0, on held-out pairs that are labelled alike: `reward/accuracy`, and `reward/exact`, that of the
    exact reward; `reward/correlation` with it over their documents; and `reward/loss`, in nats a pair.
    """

    kind: ClassVar[str] = "fit-reward"

    subject: Subject
    text: AttributeText
    told: tuple[int, ...]
    """One for each attribute; UNTOLD: any"""
    length: int
    """Symbols of each document"""
    pairs: int = 500
    permuted: bool = False
    """Shuffle the labels over the pairs, also of those held out: the null, which prefers nothing"""
    epochs: int = 4
    batch: int = 20
    """Pairs per step"""
    learning_rate: float = 1e-3
    held_out: int = 1000
    seed: int = 0
    """Of pairs, labels, order and the first weights of the reward"""

    def __post_init__(self) -> None:
        """Raises UserError for numbers out of range, and for values that the text does not have."""
        replace(self.text, fixed=self.told)
        for name in ("pairs", "epochs", "batch", "held_out", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} = {getattr(self, name)} of a reward given: expected a positive number")
        longest = self.subject.context_length
        if self.length < 2 or (longest is not None and self.length > longest):
            raise UserError(f"documents of {self.length} symbols given: expected 2 to {longest}, as the subject reads")

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return ("reward",)

    @property
    def label(self) -> str:
        return f"a reward from {self.pairs} preferences"

    @property
    def cost(self) -> Cost:
        tokens = 2 * self.length * (3 * self.epochs * self.pairs + self.held_out)
        held = self.subject.memory(2 * self.length * max(self.batch, self.held_out)).total
        weights = self.subject.memory(0).total
        return replace(self.subject.reading(tokens, self.length), memory_bytes=held + 3 * weights, disk_bytes=weights)

    def examples(self, results: Path, count: int, part: str) -> tuple[NDArray[np.int64], NDArray[np.float64], Any]:
        """Documents (count, 2, length), their exact rewards (count, 2), and whether the first is preferred (count,)."""
        rng = generator(self.seed, "preferences", part)
        _, symbols = self.text.grammar.sample(rng, 2 * count, self.length)
        tokens = self.text.symbol_ids(self.subject.codec, results)[symbols]
        exact = self.text.classifier(self.told, self.subject.codec, results)(tokens).reshape(count, 2)
        preferred = rng.random(count) < 1 / (1 + np.exp(exact[:, 1] - exact[:, 0]))
        if self.permuted:
            preferred = rng.permutation(preferred)
        return tokens.reshape(count, 2, self.length), exact, preferred

    def run(self, context: Context) -> dict[str, Any]:
        import torch  # only where a stage runs
        from safetensors.torch import save_file
        from torch.nn.functional import softplus

        started = time.perf_counter()
        documents, _, preferred = self.examples(context.results, self.pairs, "train")
        tokens = torch.from_numpy(documents).to(context.device)
        signs = torch.from_numpy(np.where(preferred, 1.0, -1.0)).float().to(context.device)
        model = self.subject.load(context).requires_grad_(True)
        head = torch.zeros(self.subject.architecture.width, device=context.device, requires_grad=True)
        optimizer = torch.optim.Adam([*model.parameters(), head], lr=self.learning_rate)
        for epoch in range(self.epochs):
            order = generator(self.seed, "order of preferences", epoch).permutation(self.pairs)
            for step, rows in enumerate(np.array_split(order, -(-self.pairs // self.batch))):
                ahead = rewarded(model, head, tokens[rows])
                loss = softplus(-signs[rows] * (ahead[:, 0] - ahead[:, 1])).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done = self.batch * (step + 1) + epoch * self.pairs
                context.progress(done, self.epochs * self.pairs, done / (time.perf_counter() - started))
        context.record(0, self._measured(context, model, head))
        folder = context.folder / "final"
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"head": head, **{f"model.{name}": each for name, each in model.named_parameters()}}
        save_file({name: each.detach().cpu().contiguous().clone() for name, each in tensors.items()}, folder / FILE)
        seconds = time.perf_counter() - started
        context.computing(seconds)
        return {"tokens": 2 * self.length * self.epochs * self.pairs, "seconds_training": seconds}

    def _measured(self, context: Context, model: Any, head: Tensor) -> dict[str, float]:
        import torch

        documents, exact, preferred = self.examples(context.results, self.held_out, "held-out")
        with torch.no_grad():
            found = rewarded(model, head, torch.from_numpy(documents).to(context.device)).double().cpu().numpy()
        ahead = (found[:, 0] - found[:, 1]) * np.where(preferred, 1, -1)
        values = {
            "accuracy": float((ahead > 0).mean()), "loss": float(np.logaddexp(0, -ahead).mean()),
            "exact": float(((exact[:, 0] > exact[:, 1]) == preferred).mean()),
        }  # fmt: skip
        if found.std() > 0 and exact.std() > 0:
            values["correlation"] = float(np.corrcoef(found.ravel(), exact.ravel())[0, 1])
        return {f"reward/{name}": value for name, value in values.items()}


def rewarded(model: Any, head: Tensor, documents: Tensor) -> Tensor:
    """Documents (..., length) of tokens -> their rewards (...)."""
    rows = documents.flatten(0, -2)
    return (model.hidden(model.embed(rows)).mean(1) @ head).view(documents.shape[:-1])


@dataclass(frozen=True, kw_only=True)
class LearnedReward(Reward):
    """That of a fitted reward, for the whole document at its end."""

    fit: FitReward
    subject: Subject
    """That it was fitted from: a stage reads the results of its own fields only."""

    def __post_init__(self) -> None:
        if self.subject != self.fit.subject:
            raise UserError("a reward with another subject than it was fitted from given: expected the same")

    def check(self, items: Sequence[Item], *, length: int, end: int | None) -> None:
        if end is not None or {item.answer + length for item in items} != {self.fit.length}:
            raise UserError(
                f"a reward of documents of {self.fit.length} symbols given: expected prompts of one length, with "
                "completions that make them as long, and stops=False"
            )

    def prepare(self, setting: RewardSetting) -> Score:
        import torch  # only where a stage runs
        from safetensors.torch import load_file

        context = setting.context
        tensors = load_file(context.parent(self.fit) / "final" / FILE, device=context.device)
        model, head = self.subject.load(context), tensors["head"]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])

        def score(rollouts: Any) -> Any:
            documents = torch.cat([rollouts.inputs, rollouts.tokens[:, -1:]], 1)
            with torch.no_grad():
                return rollouts.at_end(rewarded(model, head, documents))

        return score
