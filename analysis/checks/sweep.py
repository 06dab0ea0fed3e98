"""The checks of a sweep, by what it measured."""

from __future__ import annotations

from dataclasses import replace

from analysis.checks.attribution import attribution_checks
from analysis.checks.check import Check
from analysis.checks.completeness import controls_present, ended
from analysis.checks.decay import decay_checks
from analysis.checks.dictionaries import dictionary_checks
from analysis.checks.prompts import prompt_checks
from analysis.checks.search import search_checks
from analysis.decay.design import decaying, leading
from analysis.decay.retention import retention_curves
from analysis.prompts.elicitation import is_elicited
from analysis.runs.study import StudyData


def checks(data: StudyData) -> list[Check]:
    """Of the leading outcome that decays; else of prompts; else of the controls alone; of dictionaries in
    pretraining, of attributions, and of a search's constraints. Computed once per `data`."""
    if "checks" not in data.derived:
        further = (dictionary_checks, attribution_checks, search_checks)
        data.derived["checks"] = _once([*_checks(data), *(check for of in further for check in of(data))])
    return data.derived["checks"]


def _once(found: list[Check]) -> list[Check]:
    """A remedy is given where it is first needed; later checks refer to that one."""
    given, kept = dict[str, str](), list[Check]()
    for check in found:
        remedy = check.remedy
        for text, name in given.items():
            remedy = remedy.replace(text, f"as for “{name}”")
        kept.append(replace(check, remedy=remedy))
        if check.passed is False:
            given.setdefault(check.remedy, check.name)
    return kept


def failed(data: StudyData) -> list[Check]:
    """The required checks that fail: then the sweep answers nothing. None of one that is unfinished."""
    return [] if data.unfinished else so_far(data)


def so_far(data: StudyData) -> list[Check]:
    """The required checks that fail with what there is."""
    return [check for check in checks(data) if check.required and check.passed is False]


def failing(data: StudyData) -> tuple[str, ...]:
    """Their names."""
    return tuple(check.name for check in failed(data))


def _checks(data: StudyData) -> list[Check]:
    if outcomes := decaying(data):
        first = outcomes[0] == data.declaration.outcomes[0]
        view = data if first else leading(data, outcomes[0])
        return decay_checks(view, retention_curves(view))
    if is_elicited(data):
        return prompt_checks(data)
    return [controls_present(data), ended(data)]
