"""A fitted soft prompt as an edit: it stands before every text that the subject reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halflife.errors import UserError
from halflife.models.edit import Edit, Parents
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import Direct, SoftPrompt

if TYPE_CHECKING:
    from halflife.models.model import Model


@dataclass(frozen=True, kw_only=True)
class PromptBefore(Edit):
    """Positions of later edits count the prompt's tokens, too."""

    fit: FitSoftPrompts
    run: str
    """Name of one of its runs, `<target>.<prompt>`: at the start of the text, the same for every text"""

    def __post_init__(self) -> None:
        prompt = self._prompt
        if prompt.position != "start" or not prompt.tokens or not isinstance(prompt.model, Direct):
            raise UserError(
                f"soft prompt {self.run!r} before every text given: expected one of at least one token, at the start "
                "and the same for every text"
            )

    @property
    def _prompt(self) -> SoftPrompt:
        runs = {self.fit.run_name(target, p): p for target in self.fit.targets for p in self.fit.prompts}
        if self.run not in runs:
            raise UserError(f"soft prompt {self.run!r} given: expected one of {', '.join(sorted(runs))}")
        return runs[self.run]

    @property
    def tokens(self) -> int:
        return self._prompt.tokens

    def check(self, architecture: Rung | Released) -> None:
        fitted = self.fit.subject.architecture
        if fitted.width != architecture.width:
            raise UserError(
                f"a soft prompt of {fitted.size} before {architecture.size} given: they are {fitted.width} and "
                f"{architecture.width} wide; expected the same"
            )

    def prepare(self, parents: Parents) -> Callable[[Model], Model]:
        from halflife.prompts.prefixed import Prefixed  # imports torch
        from halflife.prompts.results import read

        vectors = read(parents.parent(self.fit) / "final")[self.run].vectors()
        return lambda model: Prefixed(model, vectors)
