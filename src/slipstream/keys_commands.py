"""`slipstream keys`: make, list and revoke the API keys of a gateway."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic import ValidationError

from slipstream.commands import print_json
from slipstream.errors import SpecError
from slipstream.gateway.caller import Priority
from slipstream.gateway.keys import Grant, Key, KeyFile, KeyLimits
from slipstream.project import find_root

DEFAULT_FILE = Path("secrets") / "gateway-keys.json"

app = typer.Typer(help="Make, list and revoke the API keys of a gateway.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[
    Path | None, typer.Option(metavar="FILE", help=f"Where the keys are. Default: {DEFAULT_FILE} of the project.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Default: no limit.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    models: Annotated[str | None, typer.Option(metavar="A,B", help="The only models it may use. Default: all.")] = None,
    weight: Annotated[float, typer.Option(help="Its share of a full engine beside others.")] = 1.0,
    priority: Annotated[str, typer.Option(help="high, normal or low.")] = "normal",
    requests_per_minute: Limit = None,
    tokens_per_minute: Limit = None,
    concurrent_requests: Limit = None,
    tokens_per_day: Limit = None,
    file: File = None,
    json: Json = False,
) -> None:
    """Make a key. Its secret is printed on stdout, this once: no file holds it."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrent_requests": concurrent_requests,
        "tokens_per_day": tokens_per_day,
    }
    keys = _key_file(file)
    grant = _grant(models, weight, cast("Priority", priority), limits)
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise SpecError(f"NAME: {name!r}, expected 1 to 64 printable characters", mend="give a shorter name")
    made = keys.add(name, grant)
    if json:
        print_json({**_as_json(made.key), "secret": made.text})
        return
    print(made.text)
    print(f"key {made.key.id} of {name} is in {keys.path}; its secret is not shown again", file=sys.stderr)


@app.command(name="list")
def list_keys(file: File = None, json: Json = False) -> None:
    """List the keys, without their secrets."""
    keys = _key_file(file).keys()
    if json:
        print_json({"keys": [_as_json(key) for key in keys]})
        return
    for key in keys:
        made = datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d")
        models = "all models" if key.models is None else ",".join(key.models)
        limits = " ".join(f"{name}={value}" for name, value in key.limits.model_dump(exclude_none=True).items())
        print(f"{key.id}  {made}  {key.name}  {models}  weight {key.weight:g}  {key.priority}  {limits}".rstrip())
    if not keys:
        print("no keys: slipstream keys add NAME", file=sys.stderr)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="As `slipstream keys list` shows it.")],
    file: File = None,
    json: Json = False,
) -> None:
    """Remove a key; gateways that read the file refuse it within a second."""
    removed = _key_file(file).revoke(key)
    if json:
        print_json({"revoked": _as_json(removed)})
    else:
        print(f"{removed.id} of {removed.name} is revoked")


def _key_file(file: Path | None) -> KeyFile:
    return KeyFile(file if file is not None else find_root(Path.cwd()) / DEFAULT_FILE)


def _grant(models: str | None, weight: float, priority: Priority, limits: dict[str, int | None]) -> Grant:
    names = None if models is None else tuple(name.strip() for name in models.split(",") if name.strip())
    if names == ():
        raise SpecError(f"--models: {models!r} names no model", mend="give names by commas, or leave it out for all")
    try:
        return Grant(models=names, weight=weight, priority=priority, limits=KeyLimits(**limits))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"--{where}: found {first['input']!r}: {first['msg']}", mend="correct the option") from error


def _as_json(key: Key) -> dict[str, Any]:
    return key.model_dump(exclude={"digest"}, exclude_none=True)
