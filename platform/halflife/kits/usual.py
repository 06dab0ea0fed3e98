"""Settings that lie far below what the presets of a study learn with, said in the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from halflife.kits.backdoor import Settings
from halflife.models.ladder import Rung
from halflife.tracking.criteria import flag

FAR = 0.5
"""Of a preset's tokens or triggers: less of either is far below it."""
NEAR = 3.0
"""Factor within which a size counts as a preset's."""


class Preset(Protocol):
    @property
    def settings(self) -> Any: ...


def far_below(settings: Settings, presets: Mapping[str, Preset]) -> Iterator[str]:
    """A line for each size whose trunk has far fewer tokens or triggers than that of every preset with about that size.
    Settings that need not learn (`stop_below` 0) do not count."""
    for size in settings.sizes if settings.stop_below else ():
        learning = {name: each.settings for name, each in presets.items() if each.settings.stop_below}
        usual = {name: each for name, each in learning.items() if _has(each, size)}
        if not usual or any(_enough(settings, each) for each in usual.values()):
            continue
        name = min(usual, key=lambda name: usual[name].trunk_tokens)
        more = ", ".join(map(flag, ("trunk_tokens", "poison_counts", "repetitions")))
        yield (
            f"warning: at {size} the trunk has {_amounts(settings)}, and the preset {name} {_amounts(usual[name])}: "
            f"it may not learn the backdoor; more with {more}"
        )


def _has(settings: Settings, size: str) -> bool:
    own = Rung(size=size).parameters
    return any(1 / NEAR <= Rung(size=each).parameters / own <= NEAR for each in settings.sizes)


def _triggers(settings: Any) -> int:
    return settings.poison_counts[0] * settings.exposures * settings.repetitions


def _enough(settings: Settings, usual: Settings) -> bool:
    tokens, triggers = settings.trunk_tokens / usual.trunk_tokens, _triggers(settings) / _triggers(usual)
    return min(tokens, triggers) >= FAR


def _amounts(settings: Settings) -> str:
    return f"{settings.trunk_tokens:,} tokens with {_triggers(settings):,} triggers"
