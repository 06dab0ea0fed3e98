"""How a stage gets to a worker: with the modules that describe it, which the worker imports before it unpacks it."""

from __future__ import annotations

from dataclasses import dataclass

# Ray's own transport, from this sweep's driver: nothing from the store passes here
from ray.cloudpickle import dumps, loads  # pyright: ignore[reportAttributeAccessIssue]

from halflife.store import plugins
from halflife.store.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A stage on its way. Ray itself would import plug-ins by name while it unpacks a call, and end in a traceback."""

    name: str
    modules: tuple[str, ...]
    """Of the classes from outside halflife, in the driver"""
    data: bytes

    @classmethod
    def of(cls, stage: Stage) -> Packed:
        return cls(name=stage.folder_name, modules=plugins.modules(), data=dumps(stage))

    def stage(self) -> Stage:
        """Raises UserError when a module cannot be imported here."""
        plugins.load(self.modules)
        return loads(self.data)
