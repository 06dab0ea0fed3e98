"""`python -m analysis laws`: every law by purpose, with its formula, its inputs and what they are measured in."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.errors import UserError, nearest
from analysis.laws import LAWS
from analysis.laws.base import find_law

INPUTS = {
    "x": "a clock or amount in any unit", "N": "parameters", "D": "tokens", "U": "unique tokens", "X": "experts",
    "k": "soft-prompt tokens", "L": "loss in any unit", "p": "share of pretraining data, 0 to 1",
    "r": "share of the domain's data, 0 to 1", "lambda": "strength of regularization", "s": "overlap, 0 to 1",
    "count": "poisoned documents",
}  # fmt: skip
"""What the built-in laws take. An input of another law is named alone."""


def menu(about: str = "") -> str:
    """Laws by purpose, in the order in which they were registered: all, or those whose name or purpose has `about`.

    Raises UserError, with the nearest word, if there is none.
    """
    found = [law for law in LAWS.values() if about.lower() in f"{law.name} {law.purpose}".lower()]
    if not found:
        words = {word.strip(":,") for law in LAWS.values() for word in (law.name, *law.purpose.split())}
        meant = nearest(about, (word for word in words if len(word) > 3)) or ":"
        raise UserError(
            f"no law and no purpose is called {about!r}{meant} `python -m analysis laws` lists all; yours is "
            "FILE.py:NAME"
        )
    lines = []
    for purpose in dict.fromkeys(law.purpose for law in found):
        group = [law for law in found if law.purpose == purpose]
        lines += ["", f"{purpose[0].upper()}{purpose[1:]}"]
        lines += [f"  {law.name:<27}  {', '.join(law.inputs):<17}  {law.formula}" for law in group]
        lines += [f"  inputs: {_inputs([name for law in group for name in law.inputs])}"]
    lines += ["", "`python -m analysis laws NAME`: parameters, bounds and source of one law; `laws WORD`: laws for it.",
              "`python -m analysis fit DATA.csv --law NAME --x INPUT=COLUMN,... --y COLUMN` fits it."]  # fmt: skip
    return "\n".join(lines[1:])


def shown(name: str | None) -> str:
    """The whole menu, one law in full, or the laws for a purpose. Raises UserError if there is nothing of that name."""
    return entry(name) if name is not None and (name in LAWS or ".py:" in name) else menu(name or "")


def entry(name: str) -> str:
    """One law in full. Raises UserError if there is none of that name."""
    law = find_law(name)
    gives = [f"{law.half_name} (where half of what it starts with is left)"] if law.decays else []
    gives += [law.half_name] if law.half is not None and not law.decays else []
    gives += [f"{name}: {each.meaning}" for name, each in law.derived.items()]
    gives += ["compute-optimal N and D (--compute)"] if law.optimum is not None else []
    about = [f"{law.name}: {law.purpose}", law.__doc__ or "", f"Inputs: {_inputs(law.inputs)}"]
    return "\n".join([*about, *(f"Gives: {text}" for text in gives)])


def _inputs(names: Iterable[str]) -> str:
    return "; ".join(f"{name} {INPUTS[name]}" if name in INPUTS else name for name in dict.fromkeys(names))
