"""The layout is a promise: where things are, how large they may grow, what may not be in the repository."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT_FOLDERS = ["model_repository", "build_scripts", "quantize", "client", "tests", "perf", "docker", "deployments"]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
ENTRY_POINT_FOLDERS = ("build_scripts", "client", "model_repository", "quantize")


def tracked(root: Path, pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [root / name for name in listed if (root / name).is_file()]


@pytest.mark.parametrize("folder", ROOT_FOLDERS)
def test_the_folder_is_there_and_says_what_it_is(root: Path, folder: str) -> None:
    assert (root / folder).is_dir()
    if folder != "tests":
        assert (root / folder / "README.md").is_file()


def test_no_root_folder_is_a_python_package(root: Path) -> None:
    assert [folder for folder in ROOT_FOLDERS if folder != "tests" and (root / folder / "__init__.py").exists()] == []


def test_files_stay_readable_in_one_sitting(root: Path) -> None:
    long = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in tracked(root, "*.py")}
    assert {name: lines for name, lines in long.items() if lines > MAX_FILE_LINES} == {}


def test_functions_stay_within_one_screen(root: Path) -> None:
    long = []
    for path in tracked(root, "src/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{path.relative_to(root)}:{node.lineno} {node.name}: {lines}")
    assert long == []


def test_entry_points_are_thin(root: Path) -> None:
    thick = [
        str(path.relative_to(root))
        for folder in ENTRY_POINT_FOLDERS
        for path in tracked(root, f"{folder}/*.py")
        if len(path.read_text().splitlines()) > 40
    ]
    assert thick == []


def test_every_module_says_what_it_is(root: Path) -> None:
    silent = [
        str(path.relative_to(root))
        for path in tracked(root, "src/*.py")
        if ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


def test_no_absolute_path_or_registry_host_is_committed(root: Path) -> None:
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("registry", "npmjs", "org"))]
    forbidden = re.compile("|".join([r"(?<![\w.])/(?:root|home/\w+|Users/\w+)/", *map(re.escape, hosts)]))
    found = []
    for path in tracked(root, "*"):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(root)}: {match[0]}" for match in forbidden.finditer(text)]
    assert [line for line in found if not line.startswith("tests/unit/test_layout.py")] == []
