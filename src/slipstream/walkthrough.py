"""docs/gpu-walkthrough.md: from a checkpoint to an endpoint on GPUs, every command in it made by the dry run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.command_line import Command
from slipstream.dry_run import DryRun, dry_run
from slipstream.pipeline import Context
from slipstream.plan.memory_table import memory_text
from slipstream.project import Workspace
from slipstream.serve.health import TEXT_PROBE
from slipstream.serve.ports import endpoints
from slipstream.spec import DeploymentSpec, PortsSpec
from slipstream.spec_file import load_deployment

PAGE = Path("docs") / "gpu-walkthrough.md"
_COMPOSE = ("docker", "compose", "--env-file", "docker/versions.env", "--file", "docker/compose.yaml")
_WIDTH = 118


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One deployment that is walked through."""

    title: str
    deployment: str
    text: str


CHAPTERS = (
    Chapter(
        title="One GPU",
        deployment="llama-3.1-8b-fp8-h100",
        text="Llama 3.1 8B in FP8 on one H100: one engine, one server, streaming.",
    ),
    Chapter(
        title="Four GPUs, with a draft model",
        deployment="llama-3.3-70b-fp8-tp4-draft",
        text="""Llama 3.3 70B in FP8 over four H100, speculating with Llama 3.2 1B. `engine.draft` gives both engines,
the second model in Triton and the profile that upstream's BLS needs: not decoupled, prompts echoed, blocks reused. A
client asks for it with `num_draft_tokens` in `tensorrt_llm_bls`, one request in a batch and not streamed. To stream,
leave `engine.draft` out.""",
    ),
    Chapter(
        title="Two nodes",
        deployment="llama-3.1-405b-fp8-tp8-pp2-h100",
        text="""Llama 3.1 405B in FP8 over two nodes of eight H100: tensor parallel inside a node, where NVLink is, and
two pipeline stages between them. The artifacts lie at `/models` on a file system that both nodes see, for the user who
starts the containers to write. One node quantizes and builds; then one of the last two commands serves: under Slurm
inside an allocation (`salloc --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --exclusive`, with what else your site
asks for), or in the leader pod of a LeaderWorkerSet. The image that serves is stage `engine` of
`docker/Dockerfile.triton`: push it to a registry of your own and name it to srun and in the pods, in place of NVIDIA's.
The pods also need `kubessh`, a remote shell over `kubectl exec`, which is not in the image.""",
    ),
)


def walkthrough(root: Path) -> str:
    """The page, from the deployments of the project at `root`."""
    return "\n".join([_HEAD, *(_chapter(chapter, root) for chapter in CHAPTERS)])


def compose_commands(spec: DeploymentSpec, *, models: Path | None = None) -> tuple[Command, ...]:
    """How the containers of docker/compose.yaml make a deployment and serve it on one machine.

    `models` is where the host keeps what containers see at /models; None: the project's build/.
    """
    env = {"DEPLOYMENT": spec.name}
    if models is not None:
        env["MODELS"] = str(models)
    if spec.engine.target == "llmapi":
        env["STAGE"] = "llmapi"
    steps = [("quantize", "quantize the model"), ("build", "build the engines and render the repository")]
    made = [
        Command(purpose=purpose, argv=(*_COMPOSE, "run", "--build", "--rm", service), env=env)
        for service, purpose in steps
    ]
    served = Command(purpose="serve", argv=(*_COMPOSE, "--profile", "serve", "up", "--build", "--detach"), env=env)
    return (*made, served)


_HEAD = """# From a checkpoint to an endpoint on GPUs

Every command below was made by Slipstream (`python build_scripts/gpu_walkthrough.py` writes this page, a test holds it
fresh). **None of them has been run on a GPU yet**: tests hold them to TensorRT-LLM 1.2.1's own flags, tensors and
parameters, and stand-ins as strict as the real tools run the whole path. What is wrong for your machine, `slipstream
doctor NAME` says before anything runs; `slipstream up NAME --dry-run` shows the same commands with every rendered file.

Paths are those inside the containers: the artifacts of a deployment, `build/NAME` on the host, are at `/models/NAME`.
Where an image of `nvcr.io` serves, it needs Slipstream's Python models beside it: `docker/Dockerfile.triton` adds them,
and `runtime.container_image` names the result where a registry has it (Slurm, Kubernetes).

Once, in a clone of the repository, on a machine with the GPUs, Docker and NVIDIA's container toolkit:

```
mkdir -p build
export SLIPSTREAM_UID=$(id -u) SLIPSTREAM_GID=$(id -g) HF_TOKEN_FILE=$HOME/.cache/huggingface/token
```

The containers run as that user, to whom `build` belongs. The file with the token is what `hf auth login` leaves; the
token's owner has accepted the model's licence on Hugging Face.
"""


_INSIDE = """What runs inside the containers. `slipstream build` starts `trtllm-build`, `slipstream serve` the server;
both also write what the next stage looks for, so these lines are here to be read:
"""


def _chapter(chapter: Chapter, root: Path) -> str:
    spec = load_deployment(chapter.deployment, root=root)
    # Not the workspace of this machine: what was prepared here must not change the page.
    context = Context(spec=spec, root=root, workspace=Workspace(directory=Path("/models") / spec.name))
    made = dry_run(context, spec.name, ())
    is_one_machine = len(made.commands) == 1 + len(made.builds) + 1
    parts = [f"## {chapter.title}\n", f"{chapter.text}\n", _checks(spec)]
    parts.append(_in_compose(spec, is_one_machine=is_one_machine))
    parts += [_INSIDE, *(_step(command) for command in _with_render(made, spec))]
    parts.append(_reasons(made))
    if made.memory is not None:
        parts.append(f"```\n{memory_text(made.memory)}```\n")
    return "\n".join(parts)


def _checks(spec: DeploymentSpec) -> str:
    return f"```\nslipstream doctor {spec.name}\nslipstream up {spec.name} --dry-run\n```\n"


def _in_compose(spec: DeploymentSpec, *, is_one_machine: bool) -> str:
    if not is_one_machine:
        *made, _ = compose_commands(spec, models=Path("/models"))
        return f"On the node that builds:\n\n{_block(made)}"
    commands = [*compose_commands(spec), _question()]
    return f"With Docker, the last line asking for a token when the server is up:\n\n{_block(commands)}"


def _block(commands: Sequence[Command]) -> str:
    lines = "\n".join(_wrapped(command) for command in commands)
    return f"```\n{lines}\n```\n"


def _question() -> Command:
    """What the health of a served deployment is judged by, as a person asks it."""
    url = f"http://{endpoints(PortsSpec()).http}/v2/models/{TEXT_PROBE.model}/generate"
    return Command(purpose="ask", argv=("curl", "--fail-with-body", "--data", json.dumps(dict(TEXT_PROBE.body)), url))


def _with_render(made: DryRun, spec: DeploymentSpec) -> Sequence[Command]:
    """The commands of the dry run, which writes the repository itself, with the one that writes it elsewhere."""
    after = 1 + len(made.builds)
    directory = str(Path("/models") / spec.name)
    render = Command(purpose="render the repository", argv=("slipstream", "render", spec.name, "--out", directory))
    return (*made.commands[:after], render, *made.commands[after:])


def _step(command: Command) -> str:
    where = f"in `{command.container}`" if command.container else "with Slipstream"
    if command.argv[0] == "srun":
        where = "on Slurm's login node"
    return f"{command.purpose[0].upper()}{command.purpose[1:]}, {where}:\n\n```\n{_wrapped(command)}\n```\n"


def _reasons(made: DryRun) -> str:
    if not made.builds:
        return ""
    lines = [
        f"- `--{one.flag} {one.value}`: {one.reason}" + (" (draft)" if build.role == "draft" else "")
        for build in made.builds
        for one in build.derived
    ]
    return "Why the options that the deployment does not name:\n\n" + "\n".join(dict.fromkeys(lines)) + "\n"


def _wrapped(command: Command) -> str:
    """The command over several lines, as a shell takes it; an option and its value stay together."""
    words = [f"{name}={shlex.quote(value)}" for name, value in command.env.items()]
    for word in map(shlex.quote, command.argv):
        is_value = words and words[-1].startswith("-") and " " not in words[-1] and "=" not in words[-1]
        if is_value and not word.startswith("-"):
            words[-1] += f" {word}"
        else:
            words.append(word)
    lines, line = [], ""
    for word in words:
        if line and len(line) + len(word) > _WIDTH:
            lines.append(f"{line} \\")
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])
