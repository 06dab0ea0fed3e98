"""The answers of a study, for readers and for programs: lines of text, `answers.json`, `answers.csv`."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from analysis.answers.judging import answers
from analysis.answers.questions import Answer
from analysis.answers.sentences import not_valid, sentence
from analysis.errors import UserError
from analysis.runs.study import StudyData
from analysis.stats.format import plural
from halflife.tracking import schema

FILES = ("answers.json", "answers.csv")
STARTUP_SECONDS = 60.0
"""Between the declaration of a sweep's questions and the creation of its run, at most."""


def document(data: StudyData) -> dict[str, Any]:
    """The content of `answers.json`. Missing and infinite numbers are null."""
    declaration, found = data.declaration, answers(data)
    return {
        "study": declaration.study, "preset": declaration.preset,
        "sweep": data.sweep.tags.get(schema.TAG_SWEEP, ""), "digest": declaration.digest,
        "declared": declared(data), "begun": begun(data),
        "looks": list(declaration.looks), "pilot_seeds": list(declaration.pilot_seeds),
        "not_valid": not_valid(data),
        "questions": [_row(answer, data) for answer in found],
    }  # fmt: skip


def _row(answer: Answer, data: StudyData) -> dict[str, Any]:
    question, verdict, estimates = answer.question, answer.verdict, answer.estimates
    found = verdict.interval if verdict else None
    settling = verdict.settling if verdict and verdict.answer == "undecided" else None
    return {
        "name": question.name, "label": question.label, "kind": question.kind, "primary": question.primary,
        "verdict": answer.word, "valid": answer.valid, "invalid": list(answer.invalid),
        "sentence": sentence(answer, data),
        "estimate": _finite(found.estimate if found else None), "low": _finite(found.low if found else None),
        "high": _finite(found.high if found else None), "margin": question.margin, "reason": question.reason,
        "prediction": question.prediction, "smaller_than_margin": bool(verdict and verdict.small),
        "seeds": found.count if found else 0, "look": verdict.look if verdict else None,
        "p": _finite(verdict.p if verdict else None), "p_holm": _finite(answer.p if question.primary else None),
        "family": verdict.family if verdict else None,
        "seeds_to_settle": dataclasses.asdict(settling) if settling else None, "trials": answer.trials,
        "censored": answer.censored, "missing": answer.missing, "problem": answer.problem,
        "further": {name: _plain(value) for name, value in answer.further.items()},
        "estimates": [
            {"seed": seed, "estimate": _finite(float(value))}
            for seed, value in zip(estimates.seeds, estimates.values, strict=True)
        ] if estimates and question.has_verdict else [],
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(part) for name, part in dataclasses.asdict(value).items()}
    return _finite(value) if isinstance(value, float) else value


def table(data: StudyData) -> pl.DataFrame:
    """The content of `answers.csv`: one row per question."""
    kept = ("name", "kind", "primary", "verdict", "valid", "estimate", "low", "high", "margin", "seeds", "p", "trials")
    kept += ("censored",)
    rows = [
        {**{name: row[name] for name in kept}, "missing": sum(row["missing"].values()), "sentence": row["sentence"]}
        for row in document(data)["questions"]
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def declared(data: StudyData) -> str:
    """When the questions were declared, by the declaration, or as the sweep began. ISO 8601, UTC."""
    return data.declaration.declared or begun(data)


def begun(data: StudyData) -> str:
    """When the sweep was first published. ISO 8601, UTC."""
    return datetime.fromtimestamp(data.sweep.started / 1000, UTC).isoformat(timespec="seconds")


def late(data: StudyData) -> str:
    """What has to be said of questions that were declared when the sweep had begun; empty if they were not."""
    first, asked = (datetime.fromisoformat(text) for text in (begun(data), declared(data)))
    if (asked - first).total_seconds() <= STARTUP_SECONDS:
        return ""
    return (
        f"The sweep began before that, at {first:%Y-%m-%d %H:%M} UTC: its runs may have been seen when this was asked."
    )


def shared(data: StudyData) -> str:
    """What the primaries have in common; empty for one or none."""
    primary = sum(question.primary for question in data.declaration.questions)
    if primary < 2:
        return ""
    return f"These {primary} share an error rate of 5%: tests by Holm, intervals simultaneous (Bonferroni)."


def lines(data: StudyData) -> list[str]:
    """For the terminal: primaries first, each in a sentence, then what they share and what was declared when."""
    declaration, found = data.declaration, answers(data)
    others = [answer for answer in found if not answer.question.primary]
    text = [why] if (why := not_valid(data)) else []
    text += [sentence(answer, data) for answer in found if answer.question.primary]
    text += [together] if (together := shared(data)) else []
    if others:
        text.append(f"Exploratory, {len(others)} looked at, not corrected for that:")
        text += [sentence(answer, data) for answer in others]
    left_out = ""
    if declaration.pilot_seeds:
        left_out = f"; pilot {plural(len(declaration.pilot_seeds), 'seed')} left out: " + ", ".join(
            str(seed) for seed in declaration.pilot_seeds
        )
    if data.unfinished:
        state = "is running" if data.running else "was interrupted and is unfinished"
        text.append(f"The sweep {state}: none of this is final.")
    text.append(f"Declared {declared(data)}, hash {declaration.digest[:12]}{left_out}.")
    return [*text, *([said] if (said := late(data)) else [])]


def write_answers(data: StudyData, out: Path) -> list[Path]:
    """Write FILES into `out`. Raises UserError if the study declares no question, or `out` cannot be written."""
    if not data.declaration.questions:
        raise UserError(
            f"study {data.declaration.study!r} declares no questions: expected `questions` in its declaration"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / name for name in FILES]
        replaced(paths[0], json.dumps(document(data), indent=2, allow_nan=False) + "\n")
        replaced(paths[1], table(data).write_csv())
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or out}: {error.strerror}; name another folder with --out"
        ) from None
    return paths


def replaced(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, never a part."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
