"""Classes from outside halflife: their part of an identity, and their modules, which every process imports itself."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterable

from halflife.errors import UserError

_modules: dict[tuple[str, str], str] = {}
"""Modules of the classes seen from outside halflife, by package and name"""


def origin_of(kind: type) -> dict[str, str]:
    """The package of a class from outside halflife, as part of its identity; nothing for halflife's own.

    Raises UserError for a class of the script that runs, which other processes cannot import, and for two classes of
    one package and name.
    """
    module = kind.__module__
    package = module.partition(".")[0]
    if package == "halflife":
        return {}
    if package == "__main__":
        raise UserError(
            f"{kind.__name__} is defined in the script itself, where workers cannot import it: move it to a module "
            "that the study imports"
        )
    known = _modules.setdefault((package, kind.__name__), module)
    if known != module:
        raise UserError(f"{kind.__name__} is defined in {known} and in {module}: expected one name once in {package}")
    return {"of": package}


def modules() -> tuple[str, ...]:
    """The modules of the classes from outside halflife that this process has described stages by."""
    return tuple(sorted(set(_modules.values())))


def load(names: Iterable[str]) -> None:
    """Import these modules. Raises UserError, with the module and this host, when one cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(
                f"module {name}, whose classes describe a stage, cannot be imported on {socket.gethostname()} ({why}): "
                "install it there, or put it next to the study's file"
            ) from error
