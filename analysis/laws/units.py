"""How a law's parameters are measured: the words of `Parameter.unit` and `Parameter.shift`."""

from __future__ import annotations

import re

from analysis.errors import UserError

POWER = re.compile(r"(\w+)(?:\^(\d+))?")
SHIFT = re.compile(r"([+-]?)\s*(\w+) ln (\w+)")


def powers(unit: str) -> dict[str, float]:
    """Exponents by the name of what is measured, in "y", "1/x", "N^2" or "ln y". Raises UserError on other words."""
    found: dict[str, float] = {}
    for place, part in enumerate(unit.removeprefix("ln ").split("/")):
        for factor in part.split():
            match = POWER.fullmatch(factor)
            if match is None:
                raise UserError(f"unit {unit!r}: expected a product of powers, such as 'y', '1/x', 'N^2' or 'ln y'")
            if match[1] != "1":
                found[match[1]] = found.get(match[1], 0.0) + (-1) ** place * float(match[2] or 1)
    return found


def shifts(shift: str) -> list[tuple[str, str, float]]:
    """(input, parameter, sign) of each term of "alpha ln N - beta ln D". Raises UserError on other words."""
    if SHIFT.sub("", shift).strip():
        raise UserError(f"shift {shift!r}: expected terms such as 'alpha ln N' or '-gamma ln N + rho ln D'")
    return [(given, name, -1.0 if sign == "-" else 1.0) for sign, name, given in SHIFT.findall(shift)]
