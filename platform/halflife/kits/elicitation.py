"""Soft-prompt length as an axis of a study of decay: how many tokens elicit what training no longer reinforces.

The same prompts are fitted to the model at the drop and to the branch's final model, and to both models of the
never-exposed control, since a prompt can teach as well as elicit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.evaluation.targets import Target, TaskTarget
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import SoftPrompt
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.stage import Stage
from halflife.tracking.questions import Contrast, Curve, Quantity, Question

RESTARTS, LR, STEPS, EXAMPLES, NUM_EVAL = 2, 0.2, 250, 256, 128
"""For each k. Few, as k is one axis among many here; studies of prompts vary them. A language with
fewer training examples uses all of them."""
FIGURES = ("soft_prompts", "distances")


def prompts(tokens: tuple[int, ...]) -> tuple[SoftPrompt, ...]:
    """RESTARTS prompts of each k, and one of k = 0, the baseline."""
    return (
        SoftPrompt(tokens=0, label="k0"),
        *(
            SoftPrompt(tokens=k, learning_rate=LR, restart=restart, label=f"k{k}-r{restart}")
            for k in sorted(tokens)
            if k
            for restart in range(RESTARTS)
        ),
    )


def described(tokens: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """A Declaration's `prompts`."""
    return (
        {prompt.name: {"k": prompt.tokens, "restart": prompt.restart} for prompt in prompts(tokens)} if tokens else {}
    )


def elicited(tokens: tuple[int, ...], what: str, where: dict[str, Any]) -> tuple[list[Quantity], list[Question]]:
    """What a study asks of these prompts, in trials as in `where`: whether they elicit `what` rather than teach it, and
    whether the decay makes that harder."""
    if not tokens:
        return [], []
    loss = Quantity(
        name="prompt_loss", label=f"the loss of {what} after a fitted prompt", derived="prompt_loss",
        unit="nats per token",
    )  # fmt: skip
    most, after, drop = max(tokens), "after the decay", "at the drop"
    found: list[Question] = [
        Contrast(
            name="elicited", quantity=loss.name, high="treatment", low="absent",
            where={**where, "k": most, "moment": after},
            label=f"Do {most} prompt tokens elicit {what} after the decay, rather than teach it?",
        ),
        Contrast(
            name="elicited_later", quantity=loss.name, axis="moment", high=after, low=drop, where={**where, "k": most},
            label=f"Does the decay make {what} harder to elicit with {most} tokens?",
        ),
    ]  # fmt: skip
    if len(tokens) > 1:
        label = f"How does the loss of {what} fall with the length of the prompt, after the decay?"
        found.append(
            Curve(
                name="elicited_by_length", label=label, quantity=loss.name, axis="k", where={**where, "moment": after}
            )
        )
    return [loss], found


def elicitation(branch: Train, target: Target, tokens: tuple[int, ...], seed: int) -> dict[str, Stage]:
    """Phases of a trial: prompts of each length in `tokens` fitted to `target` at the start and the end of the branch.

    Raises UserError for a length below 1 or given twice, and for a branch that does not start from a checkpoint.
    """
    if any(k < 1 for k in tokens) or len(set(tokens)) < len(tokens):
        raise UserError(f"--soft-prompts {' '.join(map(str, tokens))}: expected lengths of at least 1, each once")
    if not tokens:
        return {}
    if not isinstance(branch.start, Checkpoint):
        raise UserError("soft prompts at the drop need a branch: this stage does not start from a checkpoint")
    examples = len(target.examples("train", EXAMPLES, Path())) if isinstance(target, TaskTarget) else EXAMPLES
    moments = {"at-the-drop": branch.start, "after-the-decay": Checkpoint(stage=branch)}
    return {
        f"prompts-{moment}": FitSoftPrompts(
            subject=Subject(model=model),
            targets=(target,),
            prompts=prompts(tokens),
            examples=examples,
            num_eval=NUM_EVAL,
            steps=STEPS,
            seed=seed,
        )
        for moment, model in moments.items()
    }
