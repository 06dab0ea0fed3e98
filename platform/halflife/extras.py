"""What is installed only with an extra is asked for by name, before any compute."""

from __future__ import annotations

import importlib.util

from halflife.errors import UserError


def require(package: str, purpose: str, extra: str = "hf") -> None:
    """Raises UserError, which says how to install it, when `package` is not there. Imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{purpose} needs the package {package}, which is not installed: "
            f"pip install -c constraints.txt -e '.[train,{extra}]' (make install-{extra})"
        )
