"""The tables of docs/migration.md, from the tables that migrate; run as a module to write them into the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from slipstream.formats import ADA, FORMATS
from slipstream.migrate.deployment import recipe_for
from slipstream.migrate.tables import (
    BACKEND_PARAMETERS,
    BUILD_OPTIONS,
    FEATURES,
    INPUTS,
    MODELS,
    NEW_INPUTS,
    OUTPUTS,
    RUNTIME,
    SPECULATION,
    Fate,
)

PAGE = Path("docs") / "migration.md"
_OLD_SM = 80  # a GPU without FP8


def with_tables(page: str) -> str:
    """`page` with what stands between `<!-- table NAME -->` and `<!-- end -->` written anew."""

    def replaced(match: re.Match[str]) -> str:
        return f"<!-- table {match['name']} -->\n{TABLES[match['name']]()}<!-- end -->"

    return re.sub(r"<!-- table (?P<name>\w+) -->\n.*?<!-- end -->", replaced, page, flags=re.DOTALL)


def _fates(title: str, fates: Mapping[str, Fate]) -> str:
    return _table((title, "becomes", ""), ((f"`{name}`", _new(fate), fate.note) for name, fate in fates.items()))


def _new(fate: Fate) -> str:
    return "gone" if fate.new is None else f"`{fate.new}`"


def _recipes() -> str:
    rows = (
        (f"`{name}`", f"`{recipe_for(name, ADA)}`", f"`{recipe_for(name, _OLD_SM)}`" if entry.min_sm <= _OLD_SM else "")
        for name, entry in FORMATS.items()
    )
    return _table(("recipe", f"sm_{ADA} and newer", f"sm_{_OLD_SM}"), rows)


def _features() -> str:
    return _table(("gone", "what instead"), FEATURES)


def _new_inputs() -> str:
    return _table(("new input", ""), ((f"`{name}`", note) for name, note in NEW_INPUTS.items()))


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


TABLES: Mapping[str, Callable[[], str]] = {
    "features": _features,
    "recipes": _recipes,
    "models": lambda: _fates("model in Triton", MODELS),
    "inputs": lambda: _fates("input of `ensemble` and `tensorrt_llm_bls`", INPUTS),
    "new_inputs": _new_inputs,
    "outputs": lambda: _fates("output", OUTPUTS),
    "runtime": lambda: _fates("`runtime.`", RUNTIME),
    "backend_parameters": lambda: _fates("`runtime.tensorrt_llm.`", BACKEND_PARAMETERS),
    "build_options": lambda: _fates("`engine.trtllm_build.`", BUILD_OPTIONS),
    "speculation": lambda: _fates("`engine.speculation.mode`", SPECULATION),
}


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
