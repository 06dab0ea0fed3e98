"""The wheel ships analysis as halflife.analysis: nobody's own folder called analysis can take its place.

In a checkout it is the top-level package that design and tests name; only its imports are rewritten here.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

IMPORT = re.compile(r"^(\s*)from analysis\b", re.MULTILINE)
OTHER = re.compile(r"^\s*import analysis\b", re.MULTILINE)


class AnalysisInside(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root, self.tree = Path(self.root), tempfile.TemporaryDirectory()
        package = Path(self.tree.name) / "halflife"
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(root / "platform/halflife", package, ignore=ignored)
        shutil.copytree(root / "analysis", package / "analysis", ignore=ignored)
        for path in package.rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if OTHER.search(text):
                raise ValueError(
                    f"{path.relative_to(package)}: write `from analysis... import ...`, which the wheel rewrites"
                )
            text = IMPORT.sub(r"\1from halflife.analysis", text).replace("python -m analysis", "halflife-analysis")
            path.write_text(text, encoding="utf-8")
        build_data["force_include"][str(package)] = "halflife"
