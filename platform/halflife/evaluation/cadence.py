"""When a stage is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """Every step up to step `dense`, then at geometric intervals (ratio <= `ratio`), and the last step."""

    dense: int = 8
    ratio: float = 1.25


@dataclass(frozen=True, kw_only=True)
class Every:
    """Every `steps` steps, step 0 and the last step."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Step 0 and the last step only."""


Cadence = Geometric | Every | Ends


def due(cadence: Cadence, steps: int) -> list[int]:
    """The steps, ascending, after which a stage of `steps` steps is evaluated. 0 is before training; the last step is
    always included.

    Raises UserError for an unknown cadence, or one that never advances.
    """
    if isinstance(cadence, Ends):
        return sorted({0, steps})
    if isinstance(cadence, Every):
        if cadence.steps < 1:
            raise UserError(f"evaluation every {cadence.steps} steps given: expected at least 1")
        return sorted({*range(0, steps, cadence.steps), steps})
    if not isinstance(cadence, Geometric):
        raise UserError(f"cadence {cadence!r} given: expected Geometric, Every or Ends")
    if cadence.ratio <= 1 or cadence.dense < 0:
        raise UserError(
            f"evaluation at ratio {cadence.ratio} after {cadence.dense} dense steps given: "
            "expected a ratio above 1 and 0 or more dense steps"
        )
    found, step = {0, steps}, 0
    while step < steps:
        found.add(step)
        # at least one step, where the ratio gives less
        step = step + 1 if step < cadence.dense else max(step + 1, int(step * cadence.ratio))
    return sorted(found)
