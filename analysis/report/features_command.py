"""`python -m analysis features`: features to be labelled by someone who does not know which fine-tuning used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis.errors import UserError
from analysis.interpret import blinded
from analysis.report.panels import pages
from analysis.runs.study import StudyData

FILE, PAGE = "features.json", "features.html"


def write_features(data: StudyData, out: Path) -> tuple[Path, Path]:
    """The questions as JSON and as a page on which they are answered: the page saves the JSON with its labels."""
    found = blinded.questions(data)
    out.mkdir(parents=True, exist_ok=True)
    path, page = out / FILE, out / PAGE
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    models = [
        {**model, "features": [{**each, "texts": list(map(_pieces, each["texts"]))} for each in model["features"]]}
        for model in found
    ]
    text = pages().get_template("features.html").render(
        study=data.declaration.study, title=data.declaration.title, question=blinded.QUESTION, models=models,
        labels=blinded.LABELS, data=found,
    )  # fmt: skip
    page.write_text(text, encoding="utf-8")
    return path, page


def _pieces(text: str) -> list[tuple[str, int]]:
    """Runs of characters of one heat"""
    letters, _, heat = text.partition("\t")
    found: list[tuple[str, int]] = []
    for letter, digit in zip(letters, heat, strict=True):
        if found and found[-1][1] == int(digit):
            found[-1] = (found[-1][0] + letter, int(digit))
        else:
            found.append((letter, int(digit)))
    return found


def agreement_line(data: StudyData, labels: Path) -> str:
    """Raises UserError when the file cannot be read."""
    try:
        given: Any = json.loads(labels.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"labels {labels} cannot be read ({error.strerror}): expected the saved file") from None
    except ValueError as error:
        raise UserError(f"labels {labels} are not JSON ({error}): expected the saved file") from None
    found = blinded.agreement(data, given)
    over = (
        f"over {found.seeds} seeds" if found.seeds > 1 else "over the features of one model: no other model is covered"
    )
    interval = found.interval
    return (
        f"Agreement with the intent, 0 by chance: {interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}] "
        f"{over}. Labelled yes: {found.used[0]} of {found.used[1]} features that fine-tuning used, "
        f"{found.others[0]} of {found.others[1]} others that are as active."
    )
