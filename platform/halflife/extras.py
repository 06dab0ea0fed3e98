"""Checks for optional packages before any compute."""

from __future__ import annotations

import importlib.util

from halflife.errors import UserError


def require(package: str, purpose: str, extra: str = "hf") -> None:
    """Raises UserError with the install command when `package` is missing. Imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{purpose} needs the package {package}, which is not installed: "
            f"pip install -c constraints.txt -e '.[train,{extra}]' (make install-{extra})"
        )
