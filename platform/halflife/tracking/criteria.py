"""What a phase must reach before what follows it can answer anything, and the flags that would mend it. Data and
arithmetic only; standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEARNED = 0.9
"""Success that counts as learned."""
LOGPROB = -0.2
"""Nats per token: a greedy answer of some tokens is right from about here on."""
RISING = {"success": 0.5, "logprob": 0.2}
"""Least rise over the last third of a curve that counts as one: of ln odds, and of nats per token."""
MOST = 4.0
"""Times the length of a phase to which its curve is continued."""
SPARE = 1.5
"""What is recommended beyond the least that would do."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What must have been learned at the end of a phase: a sweep whose first such phases miss it stops early."""

    phase: str
    task: str
    what: str = "skill"
    """Its name for readers: "backdoor"."""
    least: float = LEARNED
    """Rate of hits among trials at the phase's last evaluation."""
    where: dict[str, Any] = field(default_factory=dict)
    """Trial parameters that select the treatments that must meet it, such as the reference setting's."""


@dataclass(frozen=True, kw_only=True)
class Levers:
    """Names of the settings that mend a check which fails; empty where a study has none."""

    trunk: str = ""
    """Tokens before the drop."""
    branch: str = ""
    """Tokens after it."""
    dose: tuple[str, ...] = ()
    """How much of the cause the trunk has: twice as much of any teaches sooner."""
    rate: str = ""
    """Learning rate."""
    prompts: str = ""
    """Prompts per evaluation."""
    words: tuple[str, ...] = ()
    """Texts that are measured, such as a trigger and a payload of one's own."""
    restarts: str = ""
    """Restarts of a fit."""
    steps: str = ""
    """Steps of a fit."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Success at one evaluation."""

    tokens: float
    hits: float
    trials: float
    logprob: float = math.nan
    """Nats per token; NaN if not measured."""

    @property
    def rate(self) -> float:
        return self.hits / self.trials

    @property
    def log_odds(self) -> float:
        return math.log((self.hits + 0.5) / (self.trials - self.hits + 0.5))


def learn(levers: Levers, settings: Mapping[str, Any], curves: Sequence[Sequence[Seen]], least: float = LEARNED) -> str:
    """What would make a phase reach `least` in all of its runs, from the curves of their success: longer if those that
    miss it still rise, with the tokens at which the slowest would get there; otherwise more of the cause."""
    curves = [curve for curve in curves if curve]
    if not curves:
        either = [more(settings, (levers.trunk,), "a longer trunk"), more(settings, levers.dose, "more of the cause")]
        return " or ".join(filter(None, either)) or "train longer"
    now = min(curve[-1].rate for curve in curves)
    found = [_rising(curve, least) for curve in curves if curve[-1].rate < least] or [_rising(curves[0], least)]
    rising, share = max(found, key=lambda each: each[1])
    start = f"success is {now:.3g}" + " in the weakest run" * (len(curves) > 1)
    if rising and levers.trunk in settings:
        longer = times(settings, levers.trunk, SPARE * share)
        return f"{start} and {rising} still rising at the end: a longer trunk, {longer}"
    if dose := more(settings, levers.dose, ""):
        return f"{start} and not rising at the end: more of the cause, {dose}"
    return f"{start} and not rising at the end: " + (times(settings, levers.trunk, 2.0) or "train longer")


def more(settings: Mapping[str, Any], names: Iterable[str], why: str, by: float = 2.0) -> str:
    """ "--poison-counts 500 or --repetitions 2": each of these settings times `by`, after `why`."""
    flags = [text for name in names if (text := times(settings, name, by))]
    return f"{why}: {' or '.join(flags)}" if flags and why else " or ".join(flags)


def times(settings: Mapping[str, Any], name: str, by: float) -> str:
    """ "--trunk-tokens 900000": a setting times `by`, of whole numbers to two digits, away from what it was."""
    if not settings.get(name):
        return ""
    given = settings[name] if isinstance(settings[name], list | tuple) else [settings[name]]
    return f"{flag(name)} {' '.join(str(_scaled(value, by)) for value in given)}"


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def _scaled(value: float, by: float) -> float:
    new = value * by
    if not isinstance(value, int):
        return float(f"{new:.2g}")
    unit = 10 ** max(0, math.floor(math.log10(max(1.0, new))) - 1)
    return max(1, (math.ceil if by > 1 else math.floor)(round(new / unit, 6)) * unit)


def _rising(curve: Sequence[Seen], least: float) -> tuple[str, float]:
    """What of a curve rises in its last third, as the middle of a sentence, and times its length after which it would
    reach `least` like that; nothing if neither success nor log-probability does."""
    last = curve[-1].tokens
    part = [seen for seen in curve if seen.tokens >= 2 / 3 * last]
    odds = math.log(least / (1 - least)) if least < 1 else math.log(2 * curve[-1].trials)
    known = [(seen.tokens, seen.logprob) for seen in part if math.isfinite(seen.logprob)]
    found = {
        "it is": _crossing([(seen.tokens, seen.log_odds) for seen in part], odds, RISING["success"]),
        "its log-probability is": _crossing(known, LOGPROB, RISING["logprob"]),
    }
    shares = ((what, max(1.0, tokens / last)) for what, tokens in found.items() if 0 < tokens <= MOST * last)
    return next(shares, ("", math.inf))


def _crossing(points: Sequence[tuple[float, float]], goal: float, least: float) -> float:
    """Where the least-squares line through points reaches `goal`; infinite if it rises by less than `least` over
    them."""
    if len(points) < 3 or points[-1][0] <= points[0][0]:
        return math.inf
    x, y = (sum(each) / len(points) for each in zip(*points, strict=True))
    slope = sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)
    if slope * (points[-1][0] - points[0][0]) < least:
        return math.inf
    return x + (goal - y) / slope
