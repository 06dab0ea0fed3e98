"""Stars and crosses of treatments, and what their trials are named by."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from halflife.kits import axes, search
from halflife.kits.axes import Varied


@dataclass(frozen=True)
class Settings:
    rates: tuple[float, ...]
    texts: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Treatment:
    arm: str
    rate: float
    text: str
    count: int


AXES = {
    "arm": Varied(label="Arm", values=("plain", "other"), text="{}"),
    "rate": Varied(label="Rate", setting="rates", text="rate x{:g}", scale="log"),
    "text": Varied(label="Text of the branch", setting="texts"),
    "count": Varied(label="Documents", setting="counts", text="{} documents"),
}
SETTINGS = st.builds(
    Settings,
    rates=st.lists(st.floats(0.1, 10), min_size=1, max_size=4, unique=True).map(tuple),
    texts=st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True).map(tuple),
    counts=st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True).map(tuple),
)


@given(SETTINGS)
def test_a_star_changes_one_axis_at_a_time_and_a_cross_every_pair(settings: Settings) -> None:
    reference = axes.reference(Treatment, AXES, settings)
    star = axes.alone(reference, AXES, AXES, settings)
    assert all(len(axes.differences(treatment, reference, AXES)) == 1 for treatment in star)
    assert (
        len(set(star)) == len(star) == 1 + sum(len(getattr(settings, f.name)) - 1 for f in dataclasses.fields(settings))
    )
    cross = axes.crossed(reference, "rate", "text", AXES, settings)
    assert cross[0] == reference
    assert {(each.rate, each.text) for each in cross} == {(r, t) for r in settings.rates for t in settings.texts}
    assert {replace(each, rate=reference.rate, text=reference.text) for each in cross} == {reference}


@given(SETTINGS)
def test_declared_axes_list_the_settings_values_with_the_references_first(settings: Settings) -> None:
    declared = {axis.name: axis for axis in axes.declared(AXES, settings)}
    assert list(declared) == list(AXES)
    assert {name: axis.values[0] for name, axis in declared.items()} == dataclasses.asdict(
        axes.reference(Treatment, AXES, settings)
    )


def test_a_trial_is_named_by_what_differs_from_the_reference() -> None:
    base = Treatment("plain", 1.0, "same", 250)
    assert axes.differences(Treatment("other", 0.5, "new", 99), base, AXES) == [
        "other", "rate x0.5", "text of the branch new", "99 documents",
    ]  # fmt: skip
    assert axes.differences(base, base, AXES) == []


def test_drawn_regularizers_are_named_as_treatments_are() -> None:
    assert search.named("none", 0.0) == "none"
    assert search.named("dropout", 0.1) == "dropout-0.1"
    assert search.named("none", 0.0, 2.0) == "weight-decay-2"
    assert search.named("dropout", 0.1, 0.5) == "weight-decay-0.5+dropout-0.1"


def test_a_trial_is_named_by_its_role_and_by_what_differs_from_the_reference() -> None:
    base = Treatment(arm="plain", rate=1.0, text="a", count=3)
    controls = {"absent": "never had it"}
    assert axes.words(base, base, AXES) == ["reference"]
    assert axes.words(base, base, AXES, "absent", controls) == ["never had it"]
    assert axes.words(replace(base, rate=0.5), base, AXES, "treatment", controls) == ["rate x0.5"]
    assert axes.words(replace(base, count=7), base, AXES, "absent", controls) == ["never had it", "7 documents"]
