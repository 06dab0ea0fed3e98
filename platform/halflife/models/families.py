"""What the installed transformers knows about a family, read from its source: importing transformers takes seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BUFFER = re.compile(r"self\.(\w+) = (?:torch\.)?nn\.Buffer\(|register_buffer\(\s*\"(\w+)\"")


@dataclass(frozen=True)
class Family:
    names: Mapping[str, str]
    """transformers' attribute_map: the family's own name for a standard one, such as hidden_size: d_model."""
    defaults: Mapping[str, Any]
    """Of the fields that a config.json may leave out, by the family's own names."""
    buffers: frozenset[str]
    """Last parts of the names of tensors that are stored or computed, but never trained."""

    def knows(self, field: str) -> bool:
        return self.names.get(field, field) in self.defaults

    def value(self, config: Mapping[str, Any], field: str) -> Any:
        """The field in `config`, by its standard name or the family's own; else its default, else None."""
        own = self.names.get(field, field)
        return next((config[name] for name in (field, own) if name in config), self.defaults.get(own))


@functools.cache
def family(model_type: str) -> Family | None:
    """The family of a config.json's model_type; None if transformers has none, or is not installed."""
    for path in _configurations(model_type):
        source = path.read_text(encoding="utf-8")
        if f'model_type = "{model_type}"' not in source:
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and (fields := _fields(node)).get("model_type") == model_type:
                modeling = "".join(file.read_text(encoding="utf-8") for file in path.parent.glob("modeling_*.py"))
                buffers = frozenset(name for names in _BUFFER.findall(modeling) for name in names if name)
                return Family(
                    names=fields.get("attribute_map", {}), defaults=fields, buffers=buffers - {"weight", "bias"}
                )
    return None


def _configurations(model_type: str) -> Iterator[Path]:
    """transformers' configuration files, those in folders named like the family first."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        return
    folders = [folder for folder in (Path(package.origin).parent / "models").iterdir() if folder.name[0] != "_"]
    start = model_type.replace("-", "_")
    for folder in sorted(folders, key=lambda folder: (not start.startswith(folder.name), folder.name)):
        yield from folder.glob("configuration_*.py")


def _fields(node: ast.ClassDef) -> dict[str, Any]:
    """The class's attributes that are constants; None for those that are computed."""
    found: dict[str, Any] = {}
    for part in node.body:
        match part:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=value)
            ):
                try:
                    found[name] = None if value is None else ast.literal_eval(value)
                except ValueError:
                    found[name] = None
    return found
