"""Numbers for readers: three significant figures, k and M, intervals next to estimates."""

from __future__ import annotations

from analysis.stats.intervals import Interval

LARGE = 0.9995e15
"""Beyond it, as for FLOPs, in exponent notation."""
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def short(value: float, digits: int = 3) -> str:
    """12345.6 -> "12.3k", 0.01234 -> "0.0123", 1.5e17 -> "1.50e17"."""
    if abs(value) >= LARGE:
        return f"{value:.{digits - 1}e}".replace("e+", "e")
    for unit, letter in _UNITS:
        if abs(value) >= 0.9995 * unit:
            return f"{_plain(value / unit, digits)}{letter}"
    return _plain(value, digits)


def bracket(low: float, high: float) -> str:
    """Of a positive quantity: "[1.2k, 3.4k]", or only the width if the ends are uninformative."""
    if low > 0 and high / low > 1e4:
        return "[wider than a factor of 10⁴]"
    return f"[{short(low)},\u00a0{short(high)}]"


def _plain(value: float, digits: int) -> str:
    """`digits` significant figures, in exponent notation only if tiny."""
    if value == 0 or abs(value) >= 1e-4:
        decimals = 0 if value == 0 else max(0, digits - 1 - int(f"{value:.{digits - 1}e}".partition("e")[2]))
        return f"{value:.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def interval(found: Interval, digits: int = 2) -> str:
    """ "0.41 [0.33, 0.49]"; without an interval the estimate and the reason."""
    if found.low is None or found.high is None:
        return f"{found.estimate:.{digits}f} (one seed, no interval)"
    return f"{found.estimate:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(items: list[str]) -> str:
    """ "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
