"""A law: a function of inputs and parameters with bounds, derivatives and, if it decays, a half-life.

A law of your own takes a dozen lines and works with the fitter, intervals, comparison and figures. In a file mylaw.py:

    import numpy as np
    from halflife.results import Parameter, law

    @law(
        name="weibull", formula="y = a exp(-(x/T)^s)", source="my notes", decays=True, levels=("a",),
        parameters=(
            Parameter(name="a", low=0, high=np.inf, unit="y", meaning="level at the start"),
            Parameter(name="T", low=1e-9, high=1e18, log=True, unit="x", meaning="time scale"),
            Parameter(name="s", low=0.1, high=3, meaning="shape"),
        ),
    )
    def weibull(x, a, T, s):
        return a * np.exp(-((x / T) ** s))

The command line finds it by file and name: `python -m analysis fit DATA.csv --law mylaw.py:weibull`. The file is
executed, so pass only files that you trust.

The function may return the value alone (its derivatives are then taken by the complex step, exact to rounding; this
rules out abs and comparisons on parameters), or the value and the tuple of its derivatives with respect to each
parameter, or these and a dictionary of its second derivatives, (i, j) with i <= j: the fitter then takes full Newton
steps.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import UserError, nearest
from analysis.laws.units import powers, shifts
from analysis.stats.arrays import Array

Function = Callable[..., Any]
Second = dict[tuple[int, int], Array]
"""Second derivatives by pair of parameters (i <= j); pairs left out are 0."""
STEP = 1e-30
"""Complex step: its square underflows, so the derivative has no truncation error (Squire and Trapp 1998)."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter with bounds `low` and `high`, which must be given; with `log` the fitter solves for its logarithm.
    Where the law sets no bound, give `low` as 0 (with `log`) or -inf and `high` as inf: the fitter then keeps it within
    the data's own scale.

    `unit` says how it is measured, as a product of powers: "x" (the first input), "y" (the response), the name of an
    input, "1/x", "N^2", "1" for a number without a unit, "ln y" for the logarithm of something in y. `shift` says what
    else moves when an input's unit changes: A of A/N^alpha has unit "y" and shift "alpha ln N", for it is measured in
    y N^alpha. Data are fitted in units of their own size wherever units and shifts say how to go back.

    Starts are drawn from `start`, a range in the parameter's `unit`: "x" scales it by the span of that input, "y" by
    that of the response, others not at all; with a `shift` at the geometric mean of the inputs. The default is the span
    itself, or the bounds.
    """

    name: str
    low: float
    high: float
    log: bool = False
    unit: str = "1"
    shift: str = ""
    start: tuple[float, float] | None = None
    meaning: str = ""

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low < 0):
            raise UserError(
                f"parameter {self.name}: bounds {self.low} to {self.high}; expected low < high, and 0 or more if log"
            )
        powers(self.unit)
        shifts(self.shift)


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A number that follows from a law's parameters, such as a compute-optimal exponent: shown with its interval."""

    function: Function
    """Of the parameters, in order; elementwise."""
    meaning: str
    log: bool = False
    """Whether it is positive and its interval is searched on the logarithm."""
    derivatives: Callable[[Array, Array], Array] | None = None
    """Of the value in the parameters, (b, P), from theta (b, P) and the value (b,); by default by differences."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """A law y = function(*inputs, *parameters), elementwise in float64. The module says how to declare one."""

    name: str
    formula: str
    source: str
    inputs: tuple[str, ...] = ("x",)
    parameters: tuple[Parameter, ...]
    function: Function
    half: Function | None = None
    """Closed form of the half-life as a function of the parameters."""
    decays: bool = False
    """Whether it falls from its value at 0: then the half-life is found by bisection, unless `half` is given."""
    fades: bool = False
    """Whether it falls with its first input, the time since the drop, from what a run must have had: so does any that
    `decays`, and one of further inputs."""
    linear: tuple[str, ...] = ()
    """Parameters in which the value is linear and homogeneous given the others: starts solve for them."""
    floor: str | None = None
    """The parameter that the decay settles at."""
    levels: tuple[str, ...] = ()
    """Parameters, and sums as "a1 + a2", that are values of y, such as that at 0. Fitted to counts they are rates
    (above chance, as shares of the rest) and lie between 0 and 1."""
    least: float | None = None
    """The smallest first input that it is a law of; by default 0 where it fades or has a half-life."""
    alike: tuple[str, ...] = ()
    """Inputs that are measured in the same unit, such as tokens and those of them that differ."""
    half_name: str = "half-life"
    """What `half` is called: time to half recovery in a curve that rises."""
    derived: Mapping[str, Derived] = field(default_factory=dict, hash=False)
    """By name, what follows from the parameters."""
    times: bool = False
    """Whether the response is a time, such as a half-life: a missing one was not reached, which is a lower bound."""
    optimum: Function | None = None
    """(N D, *parameters) -> parameters N and tokens D of the lowest loss at that product, which is compute over 6."""
    purpose: str = ""
    """What it is for: its place in the menu (`python -m analysis laws`). Default: PURPOSE of the function's module."""

    def __post_init__(self) -> None:
        unknown = set(self.linear) - set(self.names)
        if unknown or len(set(self.names)) != len(self.names):
            raise UserError(f"law {self.name}: parameters {self.names} must differ and include linear {self.linear}")
        for parameter in self.parameters:
            moves = shifts(parameter.shift)
            used = {*powers(parameter.unit), *(given for given, _, _ in moves)}
            named = {name for _, name, _ in moves}
            if used - {"x", "y", *self.inputs} or named - {p.name for p in self.parameters if not p.log}:
                raise UserError(
                    f"law {self.name}, {parameter.name}: unit {parameter.unit!r}, shift {parameter.shift!r}; expected "
                    f"y, inputs ({', '.join(self.inputs)}) and, in a shift, parameters that are not logarithms"
                )
        plain = {p.name for p in self.parameters if p.unit == "y" and not p.log}
        if wrong := [level for level in self.levels if not {*level.split(" + ")} <= plain]:
            raise UserError(
                f"law {self.name}: level {wrong[0]!r}; expected a parameter with unit y that is not a logarithm, or a "
                "sum of such, as 'a1 + a2'"
            )
        object.__setattr__(self, "fades", self.fades or self.decays)
        if self.least is None and (self.fades or self.half is not None):
            object.__setattr__(self, "least", 0.0)
        if not self.purpose:
            object.__setattr__(self, "purpose", getattr(self.function, "__globals__", {}).get("PURPOSE", "your own"))
        about = [
            f"    {p.name} in [{p.low:g}, {p.high:g}]{' (solved as its logarithm)' if p.log else ''}: {p.meaning}"
            for p in self.parameters
        ]
        notes = [self.function.__doc__] if self.function.__doc__ else []
        text = "\n".join([self.formula, "", *about, "", *notes, f"Source: {self.source}"])
        object.__setattr__(self, "__doc__", text)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.parameters)

    @property
    def of_counts(self) -> Law:
        """The same law with its levels between 0 and 1; what it is fitted to counts as."""
        return _of_counts(self)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Low and high, each (P,)."""
        return np.array([p.low for p in self.parameters], float), np.array([p.high for p in self.parameters], float)

    @property
    def log(self) -> NDArray[np.bool_]:
        """Which parameters are solved as logarithms, (P,)."""
        return np.array([p.log for p in self.parameters])

    def evaluate(self, theta: Array, x: Array) -> tuple[Array, list[Array], Second | None]:
        """Value (..., n), its P derivatives and, if the law gives them, its second ones; each broadcasts to the value.

        `theta` is (..., P), `x` is (..., n, inputs); leading axes broadcast.
        """
        inputs, values = self._split(theta, x)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            result = self.function(*inputs, *values)
            if isinstance(result, tuple):
                return result[0], list(result[1]), result[2] if len(result) > 2 else None
            columns = []
            for at in range(len(values)):
                moved = [v + 1j * STEP if i == at else v for i, v in enumerate(values)]
                columns.append(np.imag(self.function(*inputs, *moved)) / STEP)
            return np.asarray(result, dtype=float), columns, None

    def value(self, theta: Array, x: Array) -> Array:
        """Values (..., n) at theta (..., P) and x (..., n, inputs)."""
        inputs, values = self._split(theta, x)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            result = self.function(*inputs, *values)
        result = result[0] if isinstance(result, tuple) else result
        shape = np.broadcast_shapes(theta.shape[:-1], x.shape[:-2])
        return np.broadcast_to(result, (*shape, x.shape[-2]))

    def gradient(self, theta: Array, x: Array) -> Array:
        """Derivatives with respect to the parameters (natural scale), (..., n, P)."""
        value, columns, _ = self.evaluate(theta, x)
        shape = np.broadcast_shapes(value.shape, (*theta.shape[:-1], 1), x.shape[:-1])
        return np.stack([np.broadcast_to(column, shape) for column in columns], axis=-1)

    def half_life(self, theta: Array) -> Array | None:
        """Where the value is half of that at 0, (...); inf if never; None if the law has no half-life."""
        theta = np.asarray(theta, dtype=float)
        if self.half is not None:
            with np.errstate(all="ignore"):
                found = np.asarray(self.half(*(theta[..., i] for i in range(theta.shape[-1]))), dtype=float)
            return np.broadcast_to(np.where(np.isnan(found), np.inf, found), theta.shape[:-1])
        return self._bisect(theta, self.value(theta, np.zeros((1, 1)))[..., 0] / 2) if self.decays else None

    def half_excess(self, theta: Array) -> Array | None:
        """Where half of what lies above the floor at 0 is lost, (...); None if the law decays to no floor, inf if it
        starts at or below it."""
        if self.floor is None or not self.decays:
            return None
        theta = np.asarray(theta, dtype=float)
        start, floor = self.value(theta, np.zeros((1, 1)))[..., 0], theta[..., self.names.index(self.floor)]
        return np.where(start > floor, self._bisect(theta, (start + floor) / 2), np.inf)

    def _split(self, theta: Array, x: Array) -> tuple[list[Array], list[Array]]:
        theta, x = np.asarray(theta, dtype=float), np.asarray(x, dtype=float)
        return [x[..., i] for i in range(len(self.inputs))], [theta[..., i, None] for i in range(len(self.parameters))]

    def _bisect(self, theta: Array, target: Array) -> Array:
        """Finds the first octave of the clock in which the value falls to the target (...), then halves it 60 times."""
        clocks = [theta[..., i] for i, p in enumerate(self.parameters) if p.unit == "x" and p.log]
        unit = np.asarray(clocks[0] if clocks else np.ones(theta.shape[:-1]))
        grid = np.exp2(np.arange(-60.0, 100.0))
        below = self.value(theta, unit[..., None, None] * grid[:, None]) <= target[..., None]
        first = below.argmax(axis=-1)
        high = unit * grid[first]
        low = np.where(first == 0, 0.0, high / 2)
        for _ in range(60):
            middle = (low + high) / 2
            passed = self.value(theta, middle[..., None, None])[..., 0] <= target
            low, high = np.where(passed, low, middle), np.where(passed, middle, high)
        return np.where(below.any(axis=-1), high, np.inf)


@lru_cache(maxsize=256)
def _of_counts(law: Law) -> Law:
    rates = [
        replace(p, low=max(p.low, 0.0), high=min(p.high, 1.0)) if p.name in law.levels else p for p in law.parameters
    ]
    return law if tuple(rates) == law.parameters else replace(law, parameters=tuple(rates))


LAWS: dict[str, Law] = {}


def law(*, register: bool = True, **fields: Any) -> Callable[[Function], Law]:
    """Makes a function a Law and registers it in LAWS under its name; fields as in Law."""

    def make(function: Function) -> Law:
        made = Law(function=function, **fields)
        if register:
            LAWS[made.name] = made
        return made

    return make


def find_law(name: str) -> Law:
    """The registered law of that name, or that of a file FILE.py:NAME. Raises UserError with the known names."""
    file, colon, own = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _law_of_file(Path(file), own)
    if name not in LAWS:
        raise UserError(
            f"there is no law {name!r}{nearest(name, LAWS)}; `python -m analysis laws` lists all; yours is FILE.py:NAME"
        )
    return LAWS[name]


def _law_of_file(path: Path, name: str) -> Law:
    """Runs the file and returns the law that it registers, which may replace a built-in one of the same name."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; --law FILE.py:NAME expects a file that registers NAME with @law")
    before = dict(LAWS)
    try:
        runpy.run_path(str(path))
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {reason}") from error
    made = sorted(known for known, found in LAWS.items() if before.get(known) is not found)
    if name not in made:
        raise UserError(
            f"{path} registers no law {name!r}; it registers {', '.join(made) or 'none: expected @law(...)'}"
        )
    return LAWS[name]
