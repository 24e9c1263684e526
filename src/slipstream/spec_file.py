"""Reads `deployments/NAME.yaml` and `--set` overrides into a `DeploymentSpec`, and says plainly what is wrong."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from slipstream.errors import SpecError
from slipstream.spec import DeploymentSpec

MAX_SPEC_BYTES = 1 << 20
SCHEMA_FILE = Path("deployments") / "schema.json"

# What people write on a command line for two names that are long in TensorRT-LLM.
SHORT_NAMES = {"engine.tp": "engine.tp_size", "engine.pp": "engine.pp_size"}

_MAX_INT_BITS = 64
_EXCERPT_CHARACTERS = 60
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_KEY_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "value"))  # name, << and =
# What PyYAML lets through from int(), datetime.date() and its own lookups, on a value that its tag does not fit.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
_NOT_YAML = (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError)


def load_deployment(reference: str, overrides: Sequence[str] = (), *, root: Path) -> DeploymentSpec:
    """The spec of `reference` (a name under `deployments/` or a path), with `KEY=VALUE` overrides applied.

    Raises SpecError naming file, line, field, what was found and the mend.
    """
    path = _locate(reference, root)
    text = _read(path)
    settings, lines = _parse(path, text)
    for override in overrides:
        _apply(settings, override)
    try:
        spec = DeploymentSpec.model_validate(settings)
    except ValidationError as error:
        raise SpecError("\n".join(_explain(path, lines, error)), mend=f"correct {path} (or the --set)") from error
    if spec.name != path.stem:
        raise SpecError(
            f"{path}: name is {spec.name!r}, the file's name says {path.stem!r}",
            mend=f"set name: {path.stem}, or rename the file to {spec.name}.yaml",
        )
    return spec


def deployment_names(root: Path) -> list[str]:
    """The deployments of a project, sorted."""
    return sorted(path.stem for path in (root / "deployments").glob("*.yaml"))


def schema_text() -> str:
    """The JSON schema of a deployment file, as it is committed at `deployments/schema.json`."""
    return json.dumps(DeploymentSpec.model_json_schema(), indent=2, sort_keys=True) + "\n"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """', did you mean X?' for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def read_yaml(where: str, text: str) -> Any:
    """The value of a YAML text; SpecError says where it cannot be read, a key is given twice or an alias is used."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except _NOT_YAML as error:
        raise _not_yaml(where, error) from error


def _locate(reference: str, root: Path) -> Path:
    if reference.endswith((".yaml", ".yml")) or "/" in reference:
        path = Path(reference).expanduser()
    else:
        path = root / "deployments" / f"{reference}.yaml"
    if not path.is_file():
        known = deployment_names(root)
        raise SpecError(
            f"{path}: no such deployment file{did_you_mean(path.stem, known)}",
            mend=f"name one of: {', '.join(known)}; or give the path of a YAML file",
        )
    return path


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_SPEC_BYTES:
            raise SpecError(f"{path}: {size} bytes, the limit is {MAX_SPEC_BYTES}", mend="give a deployment file")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}", mend="make it a readable UTF-8 file") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader that says where a value cannot be read, and refuses keys that YAML would silently drop or retype."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # Few lines of aliases to aliases unfold to more values than memory holds.
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"the alias *{event.anchor} is not followed", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
                raise ValueError("too large")
        except _UNREADABLE as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{_excerpt(str(node.value))!r} cannot be read as {kind}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):  # a tag such as !!map can claim it of any node; super() refuses that
            _check_keys([key for key, _ in node.value])
        return super().construct_mapping(node, deep)


_COLLECTIONS: dict[type[yaml.Node], str] = {yaml.SequenceNode: "a sequence", yaml.MappingNode: "a mapping"}


def _check_keys(keys: Sequence[yaml.Node]) -> None:
    seen: set[str] = set()
    for key in keys:
        name = _excerpt(str(key.value)) if isinstance(key, yaml.ScalarNode) else _COLLECTIONS[type(key)]
        if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEY_TAGS:
            raise yaml.MarkedYAMLError(problem=f"a key must be text, found {name}", problem_mark=key.start_mark)
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"{name} is given twice", problem_mark=key.start_mark)
        seen.add(key.value)


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT_CHARACTERS else f"{text[:_EXCERPT_CHARACTERS]}…"


def _parse(path: Path, text: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The settings, and the line (from 1) of each field."""
    lines: dict[tuple[str, ...], int] = {}
    try:
        settings = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
        _collect_lines(yaml.compose(text, Loader=_Loader), (), lines)
    except _NOT_YAML as error:
        raise _not_yaml(str(path), error) from error
    if not isinstance(settings, dict):
        found = type(settings).__name__
        raise SpecError(f"{path}: a mapping is expected, found {found}", mend="start from a file in deployments/")
    return settings, lines


def _not_yaml(where: str, error: Exception, *, has_lines: bool = True) -> SpecError:
    if isinstance(error, RecursionError):
        return SpecError(f"{where}: nested too deeply, or within itself", mend="write one value per field")
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark and has_lines else ""
    problem = getattr(error, "problem", None) or error
    return SpecError(f"{where}{line}: not valid YAML: {problem}", mend="correct it; quote what is meant as text")


def _collect_lines(node: yaml.Node | None, prefix: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            field = (*prefix, str(key.value))
            lines[field] = key.start_mark.line + 1
            _collect_lines(value, field, lines)


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    name = key.strip()
    fields = SHORT_NAMES.get(name, name).split(".")
    if not equals or not all(fields):
        raise SpecError(f"--set {override}: KEY=VALUE is expected", mend="write for example --set runtime.ports=auto")
    group = settings
    for field in fields[:-1]:
        inner = group.setdefault(field, {})
        if not isinstance(inner, dict):
            # A scalar such as `ports: auto` gives way to the group that the override names a field of.
            inner = group[field] = {}
        group = inner
    try:
        group[fields[-1]] = yaml.load(value, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except _NOT_YAML as error:
        raise _not_yaml(f"--set {_excerpt(override)}", error, has_lines=False) from error


def _explain(path: Path, lines: Mapping[tuple[str, ...], int], error: ValidationError) -> list[str]:
    messages = []
    for detail in error.errors():
        field = tuple(part for part in map(str, detail["loc"]) if not _is_union_branch(part))
        if len(field) < len(detail["loc"]) and _is_other_branch(detail):
            continue
        line = f":{lines[field]}" if field in lines else ""
        where = f"{path}{line}: {'.'.join(field)}" if field else f"{path}"
        messages.append(f"{where}: {_problem(detail, field)}")
    return list(dict.fromkeys(messages))


def _is_union_branch(part: str) -> bool:
    """Whether `part` of an error's path names a branch of `runtime.ports` (a group, or the word auto), not a field."""
    return "PortsSpec" in part or part.startswith("literal[")


def _is_other_branch(detail: Any) -> bool:
    """Whether the error comes from the branch that the writer did not mean: a group is no word, a word no group."""
    is_group = isinstance(detail["input"], dict)
    return bool(detail["type"] == ("literal_error" if is_group else "model_type"))


def _problem(detail: Any, field: tuple[str, ...]) -> str:
    if detail["type"] == "extra_forbidden":
        return f"unknown field{did_you_mean(field[-1], _fields_at(field[:-1]))}"
    if detail["type"] == "missing":
        return "is required and missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    found = detail["input"]
    if isinstance(found, dict | BaseModel):
        return message
    return f"{message}, found {found!r}{_writing_hint(detail['type'], found)}"


def _writing_hint(kind: str, found: Any) -> str:
    """What YAML makes of a value that looks right to whoever wrote it."""
    if kind == "string_type" and isinstance(found, int | float):
        return f": write it in quotes, '\"{found}\"'"
    if kind in {"int_type", "float_type"} and isinstance(found, str) and _EXPONENT.fullmatch(found):
        return ": YAML takes it for text, write it without an exponent"
    return ""


def _fields_at(field: Sequence[str]) -> list[str]:
    """Names of the fields of the group at `field`."""
    group: type[BaseModel] = DeploymentSpec
    for name in field:
        info = group.model_fields.get(name)
        inner = _group_in(info.annotation) if info else None
        if inner is None:
            return []
        group = inner
    return list(group.model_fields)


def _group_in(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *typing.get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
