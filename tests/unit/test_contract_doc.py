"""docs/contract.md is what the tables of the code say, and these say what the code does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipstream.backend.bls_request import DRAFT_INPUTS, IMAGE_INPUT, PROMPT_INPUTS, RENAMED
from slipstream.backend.contract import ABSENT_OUTPUTS, ACCEPTED, NEUTRAL, REFUSED, SERVED, SERVED_OUTPUTS
from slipstream.backend.contract_parameters import READ, WITHOUT_EFFECT
from slipstream.backend.prompt import IMAGES, UNSERVED
from slipstream.errors import SpecError
from slipstream.repository.contract import contract
from slipstream.repository.sources import DERIVED, FROM_SPEC, NOT_SETTABLE
from tests.conftest import ROOT
from tests.unit.repository_fixtures import a_deployment
from tests.unit.test_repository_sources import BLS_ADDS, LOOKAHEAD, SETTINGS

BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->"
MODELS = ("tensorrt_llm", "ensemble", "tensorrt_llm_bls")
WORKS = "works"
# Fields that the spec refuses with this engine, and why; all of `runtime.tensorrt_llm` besides.
REFUSED_FIELDS = {
    "engine.speculation": "the CPU engine does not speculate",
}
BACKEND = ROOT / "src" / "slipstream" / "backend"
MODULES = {
    "preprocessing": ("preprocessing.py",),
    "tensorrt_llm": ("engine_model.py", "parameters.py"),
    "postprocessing": ("postprocessing.py",),
    "tensorrt_llm_bls": ("bls.py",),
}


def tables() -> str:
    """What stands between the markers of docs/contract.md."""
    parts = [
        section
        for model in MODELS
        for section in (
            f"## `{model}`: inputs\n\n" + table("input", inputs(model)),
            f"## `{model}`: outputs\n\n" + table("output", outputs(model)),
        )
    ]
    rows = [
        (f"`{model}` | `{name}`", parameter_status(model, name))
        for model in ("preprocessing", *MODELS, "postprocessing")
        for name in parameters(model)
    ]
    head = "## Parameters\n\n| model | parameter | on the embedded server |\n|---|---|---|\n"
    return "\n".join([*parts, head + "".join(f"| {names} | {status} |\n" for names, status in rows)]) + "\n"


def table(kind: str, rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| {kind} | on the embedded server |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {status} |" for name, status in rows)]) + "\n"


def inputs(model: str) -> Iterator[tuple[str, str]]:
    """Every input of `model` and what becomes of it."""
    for tensor in contract()[model].inputs:
        yield tensor.name, input_status(model, tensor.name)


def input_status(model: str, name: str) -> str:
    if model == "tensorrt_llm":
        return engine_status(name)
    if model == "tensorrt_llm_bls" and name == IMAGE_INPUT:
        return f"refused: {IMAGES}"
    if model == "tensorrt_llm_bls" and name in DRAFT_INPUTS:
        return f"{WORKS} with `engine.draft`; otherwise refused: {DRAFT_INPUTS[name]}"
    prompt_inputs, engine_inputs = PROMPT_INPUTS, RENAMED
    if model == "ensemble":
        maps = {step.model_name: step.input_map for step in contract()["ensemble"].steps}
        prompt_inputs, engine_inputs = (
            {outer: inner for inner, outer in maps[inside].items()} for inside in ("preprocessing", "tensorrt_llm")
        )
    if name not in prompt_inputs:
        return engine_status(engine_inputs.get(name, name))
    if name in ACCEPTED:
        return engine_status(name)
    reason = next((reason for inner, _, reason in UNSERVED if inner == prompt_inputs[name]), None)
    return WORKS if reason is None else f"refused: {reason}"


def engine_status(name: str) -> str:
    if name in SERVED:
        return WORKS
    if name in ACCEPTED:
        return f"accepted without effect: {ACCEPTED[name]}"
    values = NEUTRAL.get(name)
    unless = f", other than {' or '.join(f'{value:g}' for value in values)}" if values else ""
    return f"refused{unless}: {REFUSED[name]}"


def outputs(model: str) -> Iterator[tuple[str, str]]:
    """Every output of `model`, and whether it ever comes; the text models pass on what the engine gives."""
    for tensor in contract()[model].outputs:
        yield tensor.name, output_status(tensor.name)


def output_status(name: str) -> str:
    return WORKS if name in SERVED_OUTPUTS or name == "text_output" else f"never sent: {ABSENT_OUTPUTS[name]}"


def parameters(model: str) -> list[str]:
    own = list(contract()[model].parameters)
    return [*own, *sorted(BLS_ADDS)] if model == "tensorrt_llm_bls" else own


def parameter_status(model: str, name: str) -> str:
    if name in READ.get(model, ()):
        return WORKS
    if name in WITHOUT_EFFECT.get(model, {}):
        return f"accepted without effect: {WITHOUT_EFFECT[model][name]}"
    if name in NOT_SETTABLE.get(model, {}):
        return f"refused: {NOT_SETTABLE[model][name]}"
    path = FROM_SPEC[model][name]
    if path.startswith("runtime.tensorrt_llm."):
        return f"refused: `{path}` is a setting of the C++ backend"
    field = next(field for field in REFUSED_FIELDS if path.startswith(field))
    return f"refused: {REFUSED_FIELDS[field]}"


def test_the_page_holds_the_tables_as_they_are() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    between = page.partition(BEGIN)[2].partition(END)[0]
    assert between == tables(), "write the output of `python -m tests.unit.test_contract_doc` to docs/contract.md"


def test_each_parameter_has_one_place() -> None:
    for model, names in WITHOUT_EFFECT.items():
        assert not set(names) & READ[model]
        assert not set(names) & set(NOT_SETTABLE.get(model, {}))
        assert set(names) <= set(FROM_SPEC[model]) | set(DERIVED[model])
    assert all(names <= set(parameters(model)) for model, names in READ.items())


@pytest.mark.parametrize("model", sorted(MODULES))
def test_the_parameters_that_are_said_to_work_are_those_that_the_code_reads(model: str) -> None:
    read = {key for module in MODULES[model] for key in keys_read(BACKEND / module)}
    assert {key for key in read if not key.startswith("slipstream_")} == READ[model]


def keys_read(path: Path) -> Iterator[str]:
    """The first argument of every `config.text("…")` and its like."""
    readers = {f"config.{name}" for name in ("text", "flag", "loose_flag", "whole", "parameters.get")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in readers and len(node.args) < 3:
            key = node.args[0]
            assert isinstance(key, ast.Constant), ast.unparse(node)
            yield str(key.value)


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - READ["tensorrt_llm"]))
def test_a_setting_is_refused_with_this_engine_where_the_table_says_so(name: str) -> None:
    overrides = [override.replace("LOOKAHEAD", LOOKAHEAD) for override in SETTINGS[name][0]]
    if parameter_status("tensorrt_llm", name).startswith("refused"):
        with pytest.raises(SpecError):
            a_deployment(ROOT, "smollm2-135m-cpu", *overrides)
    else:
        assert a_deployment(ROOT, "smollm2-135m-cpu", *overrides)


def main() -> None:
    """Write the tables into the page."""
    path = ROOT / "docs" / "contract.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    path.write_text(before + BEGIN + tables() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
