"""The command line: one verb a stage. Results on stdout (`--json` for machines), the rest on stderr.

Exit codes: 0 done, 1 failed, 2 bad spec or usage, 3 a missing, stale or damaged artifact, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from slipstream import (
    __version__,
    commands,
    gateway_commands,
    gpu_commands,
    keys_commands,
    plan_commands,
    serving_commands,
    verify_command,
)
from slipstream.commands import Request
from slipstream.errors import SlipstreamError
from slipstream.serve.ports import LOOPBACK, Address

app = typer.Typer(
    name="slipstream",
    help="From a Hugging Face checkpoint to streamed tokens on Triton Inference Server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

plan_commands.register(app)
app.add_typer(keys_commands.app, name="keys")

Deployment = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="A name under deployments/, or a path.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a field; repeatable.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Artifacts of this deployment. Default: build/NAME.")]
Listen = Annotated[
    Address, typer.Option(metavar="IP", help="What Triton listens on: 127.0.0.1, or 0.0.0.0 inside a container.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every failure that a person can mend is one message and an exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _as_interrupt)
    try:
        app(args=arguments, prog_name="slipstream")
    except SlipstreamError as error:
        print(f"slipstream: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"slipstream: {where}{error.strerror or error}", file=sys.stderr)
        print("  mend: free disk space, or make the file readable and writable", file=sys.stderr)
        sys.exit(1)


@app.command()
def quantize(deployment: Deployment, sets: Sets = None, out: Out = None, json: Json = False) -> None:
    """Prepare the model and write its TensorRT-LLM checkpoint, with what quantization cost in accuracy."""
    commands.make(Request(deployment, sets or [], out, json), "quantize")


@app.command()
def verify(
    target: Annotated[str, typer.Argument(metavar="DEPLOYMENT|DIR", help="A deployment, or a checkpoint directory.")],
    sets: Sets = None,
    out: Out = None,
    json: Json = False,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The Hugging Face model it was made of. Default: the one beside.")
    ] = None,
) -> None:
    """Run a checkpoint's ranks as they stand and compare them with the model; exit 1 when something is wrong."""
    if not verify_command.verify(Request(target, sets or [], out, json), model):
        sys.exit(1)


@app.command()
def build(deployment: Deployment, sets: Sets = None, out: Out = None, json: Json = False) -> None:
    """Compile the engine from the checkpoint."""
    commands.make(Request(deployment, sets or [], out, json), "build")


@app.command()
def render(
    deployment: Annotated[str | None, typer.Argument(metavar="[DEPLOYMENT]", help="A name or a path.")] = None,
    sets: Sets = None,
    out: Out = None,
    json: Json = False,
    check: Annotated[bool, typer.Option("--check", help="Fail if a committed reference rendering is stale.")] = False,
    references: Annotated[bool, typer.Option("--references", help="Write the committed renderings again.")] = False,
) -> None:
    """Render the Triton model repository."""
    if check or references:
        commands.references(check=check)
    elif deployment is None:
        raise typer.BadParameter("name a deployment, or give --check or --references")
    else:
        commands.make(Request(deployment, sets or [], out, json), "render")


@app.command()
def serve(
    deployment: Deployment,
    sets: Sets = None,
    out: Out = None,
    json: Json = False,
    address: Listen = LOOPBACK,
) -> None:
    """Serve what has been built, until interrupted."""
    serving_commands.serve(Request(deployment, sets or [], out, json), address)


@app.command()
def up(
    deployment: Deployment,
    sets: Sets = None,
    out: Out = None,
    json: Json = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return when it serves; `down` stops it.")] = False,
    ask: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Stream a reply first; without a terminal, stop after it.")
    ] = None,
    address: Listen = LOOPBACK,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every command, file and the memory of each GPU; run nothing.")
    ] = False,
) -> None:
    """Run every stage that is due, then serve."""
    if dry_run:
        gpu_commands.show_dry_run(Request(deployment, sets or [], out, json))
        return
    if ask is not None and json:
        raise typer.BadParameter("--ask prints a reply and --json an object: give one of them")
    serving_commands.up(Request(deployment, sets or [], out, json), address, detach=detach, question=ask)


@app.command()
def doctor(
    deployment: Annotated[str | None, typer.Argument(metavar="[DEPLOYMENT]", help="A name or a path.")] = None,
    sets: Sets = None,
    out: Out = None,
    json: Json = False,
    everything: Annotated[bool, typer.Option("--all", help="Also vulnerabilities that clients cannot reach.")] = False,
) -> None:
    """Say what would go wrong with this machine, these versions and a deployment; exit 1 when it is blocked."""
    request = Request(deployment, sets or [], out, json) if deployment else None
    sys.exit(gpu_commands.doctor(request, as_json=json, everything=everything))


@app.command()
def migrate(
    deployment: Deployment,
    sets: Sets = None,
    json: Json = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The new deployment. Default: deployments/NAME-llmapi.yaml.")
    ] = None,
) -> None:
    """Turn a deployment with engines into one of the LLM API, and list what changes."""
    gpu_commands.migrate(Request(deployment, sets or [], None, json), out)


@app.command()
def down(deployment: Deployment, out: Out = None, json: Json = False) -> None:
    """Stop a served deployment and clean up after it."""
    serving_commands.down(Request(deployment, [], out, json))


@app.command()
def gateway(deployment: Deployment, sets: Sets = None, out: Out = None, json: Json = False) -> None:
    """Serve a deployment's gateway alone, before Tritons that run elsewhere, until interrupted."""
    gateway_commands.run_gateway(Request(deployment, sets or [], out, json))


@app.command()
def reload(deployment: Deployment, out: Out = None, json: Json = False) -> None:
    """Give the gateway of a served deployment the settings that its file now says; running streams go on."""
    gateway_commands.reload(Request(deployment, [], out, json))


@app.command()
def status(json: Json = False) -> None:
    """List the deployments of this project and where they are served."""
    commands.status(as_json=json)


@app.command()
def chat(
    deployment: Deployment,
    message: Annotated[str | None, typer.Argument(metavar="[MESSAGE]", help="Ask once; else a conversation.")] = None,
    out: Out = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 256,
) -> None:
    """Talk to a served deployment."""
    serving_commands.chat(Request(deployment, [], out, as_json=False), message, max_tokens)


@app.command()
def schema() -> None:
    """Print the JSON schema of a deployment file."""
    commands.schema()


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _as_interrupt(_signum: int, _frame: FrameType | None) -> None:
    """Let `kill -TERM` unwind as Ctrl-C does, so that every `finally` runs."""
    raise KeyboardInterrupt
