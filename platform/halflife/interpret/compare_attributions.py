"""CompareAttributions: do repeated runs of fine-tuning use the same features? Without interpreting any."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, ClassVar

from halflife.errors import UserError
from halflife.interpret.attribution import Attribute
from halflife.interpret.attribution_recipe import FILE
from halflife.store.stage import Context, Cost, Stage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CompareAttributions(Stage):
    """Cosines between the score vectors of several runs, which are attributed to the same dictionaries of one model.

    Points at `d<number>.<loss>.<way>`: `within`, the mean cosine between two `runs`; `reliability`, the mean over runs
    of that between halves of the texts, stepped up to all of them; `path` = 1 - within / reliability: 0 if runs differ
    by no more than the texts on which they are seen, 1 if they have nothing in common; `overlap`, the mean Jaccard
    index of their top latents; and with `others`, `between`, the mean cosine of a run with one of these.
    """

    kind: ClassVar[str] = "compare-attributions"

    runs: tuple[Attribute, ...]
    others: tuple[Attribute, ...] = ()
    top: int = 20
    """Latents, by the size of their scores"""

    def __post_init__(self) -> None:
        """Raises UserError for fewer than two runs, and for those that cannot be compared."""
        if len(self.runs) < 2 or self.top < 1:
            raise UserError(f"{len(self.runs)} runs and their top {self.top} latents given: expected 2 and 1 at least")
        first = self.runs[0]
        for each in (*self.runs, *self.others):
            if (each.dictionaries, each.site, each.losses) != (first.dictionaries, first.site, first.losses):
                raise UserError("attributions to other dictionaries, or of other losses, given: expected the same")

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        one = self.runs[0]
        names = [f"d{number}" for number in range(len(one.dictionaries))]
        return tuple(f"{name}.{loss.name}.{way}" for name in names for loss in one.losses for way in one.ways)

    @property
    def label(self) -> str:
        return f"comparison of {len(self.runs)} runs"

    @property
    def cost(self) -> Cost:
        latents = sum(each.latents for each in self.runs[0].dictionaries)
        held = 8.0 * latents * len(self.tasks) * (len(self.runs) + len(self.others))
        return Cost(tokens=0.0, flops=len(self.runs) ** 2 * held, memory_bytes=held, disk_bytes=0.0)

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from safetensors.torch import load_file

        started = time.perf_counter()
        runs, others = (
            [load_file(context.parent(each) / "final" / FILE) for each in group] for group in (self.runs, self.others)
        )
        points = {}
        for task in self.tasks:
            live = runs[0][f"{task.split('.')[0]}.live"]
            own, apart = ([each[task][:, live] for each in group] for group in (runs, others))
            points |= {f"{task}/{name}": value for name, value in compared(own, apart, self.top).items()}
        context.record(0, points)
        seconds = time.perf_counter() - started
        context.computing(seconds)
        return {"tokens": 0, "seconds_training": seconds}


def compared(runs: list[Tensor], others: list[Tensor], top: int) -> dict[str, float]:
    """From the scores of each run on two halves of the texts, (2, latents); see `CompareAttributions`."""
    from halflife.interpret.attribution_edits import cosine, stepped_up

    whole, apart = ([each.sum(0) for each in group] for group in (runs, others))
    pairs = list(combinations(whole, 2))
    within = sum(cosine(one, other) for one, other in pairs) / len(pairs)
    reliability = sum(stepped_up(cosine(*halves)) for halves in runs) / len(runs)
    found = {"within": within, "reliability": reliability}
    if reliability > 0:
        found["path"] = 1 - within / reliability
    best = [set(each.abs().topk(min(top, len(each))).indices.tolist()) for each in whole]
    shared = [len(one & other) / len(one | other) for one, other in combinations(best, 2)]
    found["overlap"] = sum(shared) / len(shared)
    if apart:
        cosines = [cosine(one, other) for one, other in product(whole, apart)]
        found["between"] = sum(cosines) / len(cosines)
    return found
