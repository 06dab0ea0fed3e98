"""Soft-prompt length as an axis of a study of decay: how many tokens bring back what training no longer keeps.

The same prompts are fitted to the model at the drop and to what became of it; the trial of a never-trained model gets
them too, since a prompt can teach as well as elicit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.evaluation.targets import Target, TaskTarget
from halflife.prompts.describe import SoftPrompt
from halflife.prompts.stages import FitSoftPrompts
from halflife.stages.train import Checkpoint, Train
from halflife.store.stage import Stage

RESTARTS, RATE, STEPS, EXAMPLES, ASKED = 2, 0.2, 250, 256, 128
"""Of each k: few, as here k is one axis among many; studies/soft_prompt_information.py varies them. Of a language that
has fewer examples, all that train a prompt."""
FIGURES = ("soft_prompts", "distances")


def prompts(tokens: tuple[int, ...]) -> tuple[SoftPrompt, ...]:
    """Of each k so many restarts, of k = 0 (which everything is compared with) one."""
    return (
        SoftPrompt(tokens=0, label="k0"),
        *(
            SoftPrompt(tokens=k, learning_rate=RATE, restart=restart, label=f"k{k}-r{restart}")
            for k in sorted(tokens)
            if k
            for restart in range(RESTARTS)
        ),
    )


def described(tokens: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """For a Declaration's `prompts`."""
    return (
        {prompt.name: {"k": prompt.tokens, "restart": prompt.restart} for prompt in prompts(tokens)} if tokens else {}
    )


def brought_back(branch: Train, target: Target, tokens: tuple[int, ...], seed: int) -> dict[str, Stage]:
    """Phases of a trial: prompts of `tokens` fitted to `target` where the branch began and where it ended; none without
    tokens.

    Raises UserError for a k that no prompt has, or a branch that begins with no checkpoint.
    """
    if any(k < 1 for k in tokens) or len(set(tokens)) < len(tokens):
        raise UserError(f"--soft-prompts {' '.join(map(str, tokens))}: expected numbers of tokens from 1, each once")
    if not tokens:
        return {}
    if not isinstance(branch.start, Checkpoint):
        raise UserError("soft prompts at the drop of a stage that begins with no checkpoint: expected a branch")
    examples = len(target.examples("train", EXAMPLES, Path())) if isinstance(target, TaskTarget) else EXAMPLES
    moments = {"at-the-drop": branch.start, "after-the-decay": Checkpoint(stage=branch)}
    return {
        f"prompts-{moment}": FitSoftPrompts(
            model=model,
            targets=(target,),
            prompts=prompts(tokens),
            examples=examples,
            num_eval=ASKED,
            steps=STEPS,
            seed=seed,
        )
        for moment, model in moments.items()
    }
