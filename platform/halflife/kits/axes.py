"""Axes that settings list the values of: the reference, a star around it, its declaration and the names of trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from halflife.kits.settings import check_distinct
from halflife.tracking.schema import Axis

Treatment = TypeVar("Treatment")


@dataclass(frozen=True, kw_only=True)
class Varied:
    """An axis among those in which the trials of one size and seed differ."""

    label: str
    setting: str = ""
    """The setting that lists its values, the reference's first."""
    values: tuple = ()
    """Without a setting."""
    text: str = ""
    """A value in the name of a trial; the label and the value by default."""
    scale: str = "category"
    unit: str = ""
    role: str = ""
    """As schema.Axis has it."""

    def listed(self, settings: Any) -> tuple:
        return getattr(settings, self.setting) if self.setting else self.values

    def axis(self, name: str, settings: Any) -> Axis:
        values = self.listed(settings)
        return Axis(name=name, label=self.label, values=values, scale=self.scale, unit=self.unit, role=self.role)


def replicated(parameters: tuple[int, ...], seeds: int) -> tuple[Axis, Axis]:
    """Sizes, by their non-embedding parameters, and seeds: the axes of every study."""
    return (
        Axis(name="parameters", label="Model size", values=parameters, scale="log", unit="non-embedding parameters"),
        Axis(name="seed", label="Seed", values=tuple(range(seeds))),
    )


def declared(axes: Mapping[str, Varied], settings: Any) -> tuple[Axis, ...]:
    return tuple(varied.axis(name, settings) for name, varied in axes.items())


def check(axes: Mapping[str, Varied], settings: Any) -> None:
    """Raises UserError for a setting that lists no value, or one twice."""
    check_distinct(settings, *(varied.setting for varied in axes.values() if varied.setting))


def reference(kind: type[Treatment], axes: Mapping[str, Varied], settings: Any) -> Treatment:
    """The first value of every axis."""
    return kind(**{name: varied.listed(settings)[0] for name, varied in axes.items()})


def alone(base: Treatment, names: Iterable[str], axes: Mapping[str, Varied], settings: Any) -> list[Treatment]:
    """`base` with each further value of each of these axes alone."""
    return [
        replace(base, **{name: value})  # type: ignore[type-var]
        for name in names
        for value in axes[name].listed(settings)[1:]
    ]


def crossed(base: Treatment, first: str, second: str, axes: Mapping[str, Varied], settings: Any) -> list[Treatment]:
    """`base` with every pair of values of two axes."""
    return [
        replace(base, **{first: one, second: other})  # type: ignore[type-var]
        for one in axes[first].listed(settings)
        for other in axes[second].listed(settings)
    ]


def differences(treatment: Any, base: Any, axes: Mapping[str, Varied]) -> list[str]:
    """What a treatment's trial is named by: its values that are not those of `base`."""
    return [
        (axes[name].text or axes[name].label.lower() + " {}").format(value)
        for name, value in dataclasses.asdict(treatment).items()
        if value != getattr(base, name)
    ]


def words(
    treatment: Any, base: Any, axes: Mapping[str, Varied], role: str = "", controls: Mapping[str, str] | None = None
) -> list[str]:
    """What sets a trial apart: the name of its role among `controls`, and its values that are not those of `base`."""
    named = [controls[role]] if controls and role in controls else []
    return [*named, *differences(treatment, base, axes)] or ["reference"]
