"""What a study asks: quantities, read from a trial, and questions about them. Data only; standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

from halflife.tracking.derived import DERIVED as DERIVED  # for analysis, which imports this module only

TOKENS = "tokens"
"""The clock that every measure has: tokens since the phase began. Other clocks are measures of the same phase, such as
`clock/steps` or `clock/learning_rate_sum`."""


@dataclass(frozen=True, kw_only=True)
class First:
    """At the phase's first evaluation."""

    kind: str = field(default="first", init=False)


@dataclass(frozen=True, kw_only=True)
class Last:
    """At the phase's last evaluation; missing if the phase did not end as planned."""

    kind: str = field(default="last", init=False)


@dataclass(frozen=True, kw_only=True)
class At:
    """At an amount of a clock, between evaluations by straight lines; missing if the run ended before."""

    amount: float
    clock: str = TOKENS
    kind: str = field(default="at", init=False)


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Mean over a clock from `start` to `end`; by default the longest span that all completed trials have."""

    start: float | None = None
    end: float | None = None
    scale: str = "log"
    """log | linear: whether each factor of the clock counts alike, or each unit"""
    clock: str = TOKENS
    kind: str = field(default="mean", init=False)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The time on a clock when the measure passes `threshold`; censored if it does not."""

    threshold: float
    direction: str = "below"
    """below | above"""
    sustained: bool = True
    """From when on it stays there (only below)."""
    clock: str = TOKENS
    kind: str = field(default="crossing", init=False)


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Least-squares slope over a clock (over ln of it: log), from `start` to `end`."""

    start: float | None = None
    end: float | None = None
    scale: str = "linear"
    """log | linear"""
    clock: str = TOKENS
    kind: str = field(default="slope", init=False)


MOMENTS = {each.kind: each for each in (First, Last, At, Mean, Crossing, Slope)}
Moment = First | Last | At | Mean | Crossing | Slope
TRANSFORMS = ("none", "log", "logit", "above chance")


@dataclass(frozen=True, kw_only=True)
class Against:
    """The trials that a quantity is compared with, paired by seed and the other axes."""

    role: str
    how: str = "difference"
    """difference | ratio: of the numbers, transformed | retention: the curve is read as
    (m(t) - c(t)) / (m(0) - c(t)) before the moment (analysis.decay.formulas.retention)"""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """How one number is read from a trial: a measure at a moment, or a derived reading; control, transform.

    Logarithms are natural. A difference after `log` is the ln of a ratio, and is reported as a factor.
    """

    name: str
    label: str
    """In words, as the subject of a sentence: "the half-life"."""
    measure: str = ""
    """`<phase>/<task>/<measure>`, of a search `objective/<name>`; with the measure `hits` the rate of hits among
    trials, whose counts are kept."""
    derived: str = ""
    """Instead of measure and moment: a name in DERIVED."""
    moment: Moment = field(default_factory=Last)
    unit: str = ""
    transform: str = "none"
    """none | log | logit (of counts: (hits + 1/2) / (misses + 1/2)) | above chance (minus `chance`)"""
    chance: float = 0.0
    """A trial that logs `<phase>/<task>/chance` has its own."""
    against: Against | None = None

    @property
    def phase(self) -> str:
        return self.measure.partition("/")[0]

    @property
    def task(self) -> str:
        return self.measure.partition("/")[2].rpartition("/")[0]

    @property
    def on_log_scale(self) -> bool:
        """Whether differences of its values are logarithms of ratios."""
        return self.transform == "log"


@dataclass(frozen=True, kw_only=True)
class Question:
    """Base of all questions. An answer is one estimate per seed, then Student-t over seeds, then a verdict."""

    name: str
    label: str
    """In words: "Does size slow the decay?"."""
    quantity: str
    """Name of a declared quantity."""
    primary: bool = False
    """At most three of a study; they share one error rate. All others are exploratory."""
    prediction: str = ""
    """positive | negative | equivalent, stated before the runs"""
    margin: float | None = None
    """The smallest effect of interest, above 0, in the unit of the estimate."""
    reason: str = ""
    """Why this margin, in terms of the outcome; never the spread seen."""
    where: dict[str, Any] = field(default_factory=dict)
    """Trial parameters that select the trials, such as {"payload": "fixed"}."""
    role: str = "treatment"
    """The role of the trials that are asked about."""
    kind: str = field(default="", init=False)

    has_verdict: ClassVar[bool] = True

    @property
    def quantities(self) -> tuple[str, ...]:
        return (self.quantity,)

    @property
    def axes(self) -> dict[str, int]:
        """Trial parameters that it compares over, each with the fewest distinct values that it needs."""
        return {}

    @property
    def amounts(self) -> tuple[str, ...]:
        """Those that have to be numbers."""
        return ()

    @property
    def values(self) -> dict[str, tuple[Any, ...]]:
        """By trial parameter, the values that some trial has to have."""
        return {}

    @property
    def roles(self) -> tuple[str, ...]:
        """Of the trials that it is about."""
        return (self.role,)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of declared outcomes that it is about."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Trend(Question):
    """The slope of the quantity over a numeric axis, one per seed."""

    axis: str
    """A trial parameter, such as `parameters`."""
    scale: str = "log"
    """log: per unit of ln axis, so with a quantity in logarithms an exponent | linear"""
    kind: str = field(default="trend", init=False)

    @property
    def axes(self) -> dict[str, int]:
        return {self.axis: 2}

    @property
    def amounts(self) -> tuple[str, ...]:
        return (self.axis,)


@dataclass(frozen=True, kw_only=True)
class Contrast(Question):
    """The quantity at one value of an axis minus that at another, or of one role minus another, paired by seed."""

    axis: str = "role"
    """A trial parameter, or `role`."""
    high: Any
    low: Any
    kind: str = field(default="contrast", init=False)

    @property
    def axes(self) -> dict[str, int]:
        return {} if self.axis == "role" else {self.axis: 2}

    @property
    def values(self) -> dict[str, tuple[Any, ...]]:
        return {self.axis: (self.high, self.low)}

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.high, self.low) if self.axis == "role" else (self.role,)


@dataclass(frozen=True, kw_only=True)
class Curve(Question):
    """The quantity over an amount. The verdict is on its change from the smallest to the largest amount; reported are
    the amount at which it reaches `threshold`, and the amount from which on it stays within `saturation` of its last
    value, as a share of the whole change."""

    axis: str
    threshold: float | None = None
    saturation: float = 0.1
    kind: str = field(default="curve", init=False)

    @property
    def axes(self) -> dict[str, int]:
        return {self.axis: 3}

    @property
    def amounts(self) -> tuple[str, ...]:
        return (self.axis,)


@dataclass(frozen=True, kw_only=True)
class Association(Question):
    """The rank correlation of two quantities over items, per seed, then over seeds, from 5 seeds on."""

    other: str
    """Name of the second quantity."""
    items: str
    """The trial parameter whose values are the items: behaviours, say."""
    kind: str = field(default="association", init=False)

    @property
    def quantities(self) -> tuple[str, ...]:
        return self.quantity, self.other

    @property
    def axes(self) -> dict[str, int]:
        return {self.items: 4}


@dataclass(frozen=True, kw_only=True)
class Decay(Question):
    """Half-life, floor and savings of a declared outcome (analysis.decay); the verdict is on the floor: whether
    retention settles above the control."""

    quantity: str = ""
    outcome: str
    kind: str = field(default="decay", init=False)

    @property
    def quantities(self) -> tuple[str, ...]:
        return ()

    @property
    def outcomes(self) -> tuple[str, ...]:
        return (self.outcome,)


@dataclass(frozen=True, kw_only=True)
class Frontier(Question):
    """The settings of which none other is better in both quantities, means over seeds: reported without an interval."""

    other: str
    better: tuple[str, str] = ("high", "high")
    """high | low: of the quantity, of the other."""
    axis: str
    """The trial parameter that names the settings."""
    kind: str = field(default="frontier", init=False)

    has_verdict: ClassVar[bool] = False

    @property
    def quantities(self) -> tuple[str, ...]:
        return self.quantity, self.other

    @property
    def axes(self) -> dict[str, int]:
        return {self.axis: 2}


QUESTIONS: dict[str, type[Question]] = {
    each.kind: each for each in (Trend, Contrast, Curve, Association, Decay, Frontier)
}


def read(kinds: Mapping[str, type], data: Mapping[str, Any]) -> Any:
    """The dataclass of `kinds` that JSON `data` names by its `kind`. Raises ValueError for an unknown kind."""
    kind = str(data.get("kind"))
    if kind not in kinds:
        raise ValueError(f"unknown kind {kind!r}: expected one of {', '.join(kinds)}")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return kinds[kind](**{name: value for name, value in given.items() if name != "kind"})


def chosen(value: Any) -> Any:
    """JSON data of what differs from the defaults, so that a field that is added later changes no digest."""
    if is_dataclass(value):
        found = {each.name: (getattr(value, each.name), each) for each in fields(value)}
        return {
            name: chosen(own)
            for name, (own, each) in found.items()
            if name == "kind" or own != (each.default if each.default_factory is MISSING else each.default_factory())
        }
    return [chosen(each) for each in value] if isinstance(value, tuple) else value


def quantity(data: Mapping[str, Any]) -> Quantity:
    """A quantity from JSON data."""
    against = data.get("against")
    return Quantity(
        **{**data, "moment": read(MOMENTS, data["moment"]), "against": Against(**against) if against else None}
    )
