"""Writes docs/gpu-walkthrough.md: python build_scripts/gpu_walkthrough.py"""

from pathlib import Path

from slipstream.project import find_root
from slipstream.walkthrough import PAGE, walkthrough

root = find_root(Path.cwd())
(root / PAGE).write_text(walkthrough(root), encoding="utf-8")
