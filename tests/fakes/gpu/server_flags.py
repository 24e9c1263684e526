"""The options of `tritonserver`, as getopt_long takes them (`--name value`, `--name=value`); names and types held."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FACTS = json.loads(Path(__file__).with_name("tritonserver_flags.json").read_text())
_TRUE, _FALSE = {"true", "on", "1"}, {"false", "off", "0"}
_FORMS: Mapping[str, str] = {
    "integer": r"-?\d+",
    "float": r"-?\d+(\.\d+)?",
    "string": r"(?s).+",
    "<string>=<string>": r"[^=]+=.+",
    "<string>,<string>=<string>": r"([^,=]+,)?[^=]+=.*",
    "<string>:<string>=<string>": r"[^:]+:[^=]+=.+",
    "<string>:<integer>:<integer>": r"[^:]+:\d+(:\d+)?",
    "<integer>:<integer>": r"\d+:\d+",
    "<integer>-<integer>": r"\d+-\d+",
    "<device_id>:<fraction>": r"\d+:\d+(\.\d+)?",
}


class UsageError(Exception):
    """The command line is not one that tritonserver takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every option that was given, with each of its values in order."""

    given: Mapping[str, tuple[str, ...]]

    def all(self, name: str) -> tuple[str, ...]:
        return self.given.get(name, ())

    def last(self, name: str, default: str) -> str:
        return self.given[name][-1] if name in self.given else default

    def flag(self, name: str, *, default: bool) -> bool:
        return self.last(name, str(default)).lower() in _TRUE

    @property
    def prefix(self) -> str | None:
        """Of the shared memory of Python stubs."""
        for setting in self.all("backend-config"):
            if setting.startswith("python,shm-region-prefix-name="):
                return setting.partition("=")[2]
        return None


def parse_options(argv: Sequence[str]) -> Options:
    """UsageError for what getopt_long or the server's own parser refuses, and for deprecated options."""
    given: dict[str, list[str]] = {}
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not name:
            raise UsageError(f"Unexpected argument: {argument}")
        if name not in _FACTS["flags"]:
            note = " (deprecated)" if name in _FACTS["deprecated"] else ""
            raise UsageError(f"tritonserver: unrecognized option '{argument}'{note}")
        if _FACTS["flags"][name] == "none":
            if has_value:
                raise UsageError(f"tritonserver: option '--{name}' doesn't allow an argument")
        elif not has_value:
            if not rest:
                raise UsageError(f"tritonserver: option '--{name}' requires an argument")
            value = rest.pop(0)
        _check(name, value)
        given.setdefault(name, []).append(value)
    options = Options(given={name: tuple(values) for name, values in given.items()})
    _check_together(options)
    return options


def _check(name: str, value: str) -> None:
    kind = _FACTS["flags"][name]
    if kind == "none":
        return
    is_switch = kind == "boolean"
    is_right = value.lower() in _TRUE | _FALSE if is_switch else bool(re.fullmatch(_FORMS[kind], value))
    choices = _FACTS["choices"].get(name)
    if not is_right or (choices and value not in choices):
        raise UsageError(f'Bad option: "--{name} {value}".\nExpects value: <{kind}>')
    if name in {"http-restricted-api", "grpc-restricted-protocol"}:
        for api in value.partition(":")[0].split(","):
            if api not in _FACTS["apis"]:
                raise UsageError(f"unknown restricted protocol '{api}' is specified")


def _check_together(options: Options) -> None:
    if not options.all("model-repository") and not options.all("model-store"):
        raise UsageError("Must specify at least one --model-repository")
    models = options.all("load-model")
    if models and options.last("model-control-mode", "none") != "explicit":
        raise UsageError("Error: Use of '--load-model' requires setting '--model-control-mode=explicit' as well.")
    if "*" in models and len(models) > 1:
        raise UsageError("Error: Wildcard model name '*' must be the ONLY startup model if specified at all.")
    ports: dict[tuple[str, str], str] = {}
    address = "0.0.0.0"
    for service, default in (("http", "8000"), ("grpc", "8001"), ("metrics", "8002")):
        fallback = options.last("http-address", address) if service == "metrics" else address
        where = (options.last(f"{service}-address", fallback), options.last(f"{service}-port", default))
        if options.flag(f"allow-{service}", default=True):
            if where in ports:
                raise UsageError(
                    f"The server cannot listen to {ports[where]} requests and {service} requests"
                    f" at the same address and port {':'.join(where)}"
                )
            ports[where] = service
