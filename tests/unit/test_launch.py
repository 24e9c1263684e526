"""Launch plans, held to `tests/contract/trtllm-1.2.1/launch.json` and to Triton's own options."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipstream.command_line import Command
from slipstream.errors import SpecError
from slipstream.serve.launch import LaunchTarget, launch_plan
from slipstream.spec import DeploymentSpec, PortsSpec
from slipstream.spec_file import load_deployment
from tests.fakes.gpu.server_flags import Options, parse_options

ROOT = Path(__file__).resolve().parents[2]
CONTRACT: dict[str, Any] = json.loads((ROOT / "tests/contract/trtllm-1.2.1/launch.json").read_text())
ONE, SPLIT, DRAFT, LLMAPI = (
    "llama-3.1-8b-fp8-h100",
    "llama-3.3-70b-int8-sq-tp8-a100",
    "llama-3.3-70b-fp8-tp4-draft",
    "llama-3.1-8b-nvfp4-llmapi-b200",
)
TWO_NODES = ("hardware.gpus_per_node=4", "hardware.nodes=2")
GPU_DEPLOYMENTS = sorted(
    path.stem
    for path in (ROOT / "deployments").glob("*.yaml")
    if yaml.safe_load(path.read_text())["engine"]["target"] != "openvino"
)


def a_spec(name: str, *sets: str) -> DeploymentSpec:
    return load_deployment(name, sets, root=ROOT)


def a_plan(
    name: str,
    *sets: str,
    for_: LaunchTarget = "local",
    container: str = "an/image:1",
    restricted_key: str | None = None,
) -> Command:
    [command] = launch_plan(
        a_spec(name, *sets),
        repository=f"/models/{name}/model_repository",
        container=container,
        ports=PortsSpec(http=9000, grpc=9001, metrics=9002),
        for_=for_,
        restricted_key=restricted_key,
    )
    return command


def ranks_of(argv: tuple[str, ...]) -> list[Options]:
    """The servers of an mpirun line, parsed as strictly as `command_shape` says."""
    assert CONTRACT["command_shape"].startswith("mpirun --allow-run-as-root [--oversubscribe] then per rank: -n 1 ")
    assert argv[:2] == ("mpirun", "--allow-run-as-root")
    rest = list(argv[3:] if argv[2] == "--oversubscribe" else argv[2:])
    contexts: list[list[str]] = [[]]
    for word in rest:
        contexts.append([]) if word == ":" else contexts[-1].append(word)
    for context in contexts:
        assert context[:3] == ["-n", "1", "tritonserver"], context
    return [parse_options(context[3:]) for context in contexts]


def check_ranks(ranks: list[Options], engine_models: tuple[str, ...]) -> None:
    """`command_shape` and `rank_rules`, and of the multi-node part which ports a rank above 0 does not open."""
    assert "adds --model-control-mode=explicit and --load-model=<each" in CONTRACT["rank_rules"][0]
    assert len({rank.prefix for rank in ranks}) == len(ranks)
    for rank in ranks:
        assert rank.all("model-repository")
        assert rank.all("disable-auto-complete-config")
        assert rank.all("exit-on-error") == ("true",)
    assert ranks[0].all("load-model") == ()
    assert ranks[0].last("model-control-mode", "none") == "none"
    for rank in ranks[1:]:
        assert rank.last("model-control-mode", "none") == "explicit"
        assert rank.all("load-model") == engine_models
        for word in CONTRACT["multi_node"]["lws"]["rank_gt0"].split():
            name, _, value = word.removeprefix("--").partition("=")
            if name.startswith("allow-"):
                assert rank.last(name, "true") == value, word


@pytest.mark.parametrize(
    ("name", "for_"),
    [
        (name, for_)
        for name in GPU_DEPLOYMENTS
        for for_ in ("local", "slurm", "lws")
        if for_ != "local" or a_spec(name).engine.world_size <= 8  # more needs two machines
    ],
)
def test_no_plan_has_a_placeholder_or_an_option_that_does_not_exist(name: str, for_: LaunchTarget) -> None:
    sets = ("runtime.launch_mode=leader",) if name == DRAFT and for_ != "local" else ()
    command = a_plan(name, *sets, for_=for_)
    absent = {words.split()[0].lstrip("-") for words in CONTRACT["not_existing"]}
    words = " ".join(command.argv)
    assert "disable_auxstream" in absent
    assert not [option for option in absent if f"--{option}=" in words or f"--{option} " in words]
    assert "--exit-on-error=true" in words  # tritonserver's own, with dashes
    for argument in command.argv[: -1 if command.argv[-2] == "-c" else None]:
        assert "${" not in argument
        assert " " not in argument
    assert command.container == (None if for_ == "slurm" else "an/image:1")


def test_one_gpu_is_one_server_without_mpirun() -> None:
    command = a_plan(ONE)
    assert command.argv[0] == "tritonserver"
    options = parse_options(command.argv[1:])
    check_ranks([options], ())
    for service, port in (("http", "9000"), ("grpc", "9001"), ("metrics", "9002")):
        assert options.last(f"{service}-port", "") == port
        assert options.last(f"{service}-address", "") == "127.0.0.1"
        assert options.flag(f"allow-{service}", default=True)
    assert not [name for name in command.env if name.startswith(("TRTLLM_", "OMPI_"))]


def test_leader_mode_is_one_server_a_rank() -> None:
    assert CONTRACT["modes"]["leader"]["world_size"] == "tp*pp of the model"
    command = a_plan(SPLIT, "engine.tp_size=4", "engine.pp_size=2")
    ranks = ranks_of(command.argv)
    assert len(ranks) == 8
    check_ranks(ranks, ("tensorrt_llm",))
    # Two ranks would otherwise share one core each with all their threads.
    assert command.env["OMPI_MCA_hwloc_base_binding_policy"] == "none"
    assert "TRTLLM_ORCHESTRATOR" not in command.env


def test_a_draft_over_several_gpus_is_orchestrated_unless_the_spec_says_leader() -> None:
    assert "several models need orchestrator" in CONTRACT["modes"]["leader"]["multiple_trtllm_models"]
    assert a_plan(DRAFT).env["TRTLLM_ORCHESTRATOR"] == "1"
    led = a_plan(DRAFT, "runtime.launch_mode=leader")
    assert "TRTLLM_ORCHESTRATOR" not in led.env
    ranks = ranks_of(led.argv)
    assert len(ranks) == 4
    check_ranks(ranks, ("tensorrt_llm", "tensorrt_llm_draft"))


def test_a_draft_on_one_gpu_is_one_server() -> None:
    assert a_plan(DRAFT, "engine.tp_size=1").argv[0] == "tritonserver"


def test_an_orchestrator_spawns_from_one_rank_and_leaves_the_memory_pools_alone() -> None:
    rule = CONTRACT["multi_model"]
    assert rule["rule"] == "world_size must be 1 when spawning"
    command = a_plan(DRAFT)
    [rank] = ranks_of(command.argv)
    assert {name: command.env[name] for name in rule["env"]} == {
        "TRTLLM_ORCHESTRATOR": "1",
        "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1",
    }
    assert "--pinned-memory-pool-byte-size=0 --enable-peer-access=false" in rule["extra_args"]
    assert rank.last("pinned-memory-pool-byte-size", "") == "0"
    assert rank.last("enable-peer-access", "true") == "false"
    assert rank.all("cuda-memory-pool-byte-size") == ("0:0", "1:0", "2:0", "3:0")


def test_instances_on_their_own_gpus_are_one_orchestrator() -> None:
    sets = (
        "engine.tp_size=2",
        "runtime.launch_mode=orchestrator",
        "runtime.engine_instances=2",
        "runtime.tensorrt_llm.gpu_device_ids=0,1;2,5",
    )
    [rank] = ranks_of(a_plan(SPLIT, *sets).argv)
    assert rank.all("cuda-memory-pool-byte-size") == tuple(f"{gpu}:0" for gpu in range(6))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ("0,1,2", "expected 4 different GPUs for each instance"),
        ("0,1,2,2", "expected 4 different GPUs for each instance"),
        ("0,1,2,3,4", "expected 4 different GPUs for each instance"),
        ("0,1,2,999999999", "the largest id that is taken is 127"),
    ],
)
def test_gpus_that_are_not_one_a_rank_are_refused(ids: str, expected: str) -> None:
    with pytest.raises(SpecError, match=f"gpu_device_ids is {ids}, {expected}"):
        a_plan(DRAFT, f"runtime.tensorrt_llm.gpu_device_ids={ids}")


def test_without_spawning_every_participant_is_a_rank() -> None:
    assert "1+sum of all ranks with --disable-spawn-processes" in CONTRACT["modes"]["orchestrator"]["world_size"]
    command = a_plan(
        DRAFT,
        "engine.tp_size=2",
        "runtime.launch_mode=orchestrator",
        "runtime.tensorrt_llm.participant_ids=3,4",
    )
    ranks = ranks_of(command.argv)
    assert len(ranks) == 1 + 2 + 2
    check_ranks(ranks, ("tensorrt_llm", "tensorrt_llm_draft"))
    assert command.env["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] == "0"
    assert not ranks[0].all("pinned-memory-pool-byte-size")


@pytest.mark.parametrize(("ids", "expected"), [("1,2", "the ranks 3 to 4"), ("3,4,5", "1 instances of 2 ranks")])
def test_participants_that_leave_a_gap_are_refused(ids: str, expected: str) -> None:
    sets = ("engine.tp_size=2", "runtime.launch_mode=orchestrator", f"runtime.tensorrt_llm.participant_ids={ids}")
    with pytest.raises(SpecError, match=expected):
        a_plan(DRAFT, *sets)


def test_ranks_that_need_two_machines_are_not_started_on_one() -> None:
    with pytest.raises(SpecError, match="one machine has 4 GPUs: the ranks need 2 machines"):
        a_plan(SPLIT, *TWO_NODES)


def test_an_orchestrator_stays_on_one_machine() -> None:
    assert CONTRACT["modes"]["orchestrator"]["multi_node"] == "no"
    with pytest.raises(SpecError, match="orchestrator"):
        a_plan(DRAFT, for_="slurm")
    with pytest.raises(SpecError, match="orchestrator runs on one machine"):
        a_plan(DRAFT, "hardware.gpus_per_node=2", "hardware.nodes=2", for_="lws")


def test_the_llm_api_starts_its_own_workers_on_one_machine() -> None:
    command = a_plan(LLMAPI, "engine.tp_size=4", "hardware.gpus_per_node=4")
    assert command.argv[0] == "tritonserver"
    parse_options(command.argv[1:])
    assert command.env["OMPI_MCA_hwloc_base_binding_policy"] == "none"  # it spawns them by MPI
    assert "OMPI_MCA_hwloc_base_binding_policy" not in a_plan(LLMAPI).env


def test_the_llm_api_on_two_machines_is_launched_rank_by_rank() -> None:
    sets = ("engine.tp_size=8", *TWO_NODES)
    argv = a_plan(LLMAPI, *sets, for_="slurm").argv
    shape = CONTRACT["multi_node"]["llmapi"].split()
    assert shape[0] == argv[0] == "srun"
    assert {"--mpi=pmix", "--nodes=2", "--ntasks-per-node=4"} <= set(argv)
    assert "trtllm-llmapi-launch tritonserver" in CONTRACT["multi_node"]["llmapi"]
    at = argv.index("trtllm-llmapi-launch")
    assert argv[at + 1] == "tritonserver"
    parse_options(argv[at + 2 :])


def test_the_llm_apis_arguments_survive_a_shell_that_splits_words() -> None:
    # trtllm-llmapi-launch runs its command unquoted.
    argv = a_plan(LLMAPI, "engine.tp_size=8", *TWO_NODES, for_="slurm", restricted_key="0af").argv
    for argument in argv[argv.index("trtllm-llmapi-launch") :]:
        assert not set(argument) & set(" \t\n*?[$\\"), argument


def test_a_key_restricts_the_administrative_apis_of_the_serving_rank() -> None:
    ranks = ranks_of(a_plan(SPLIT, restricted_key="0af").argv)
    rule = "model-repository,shared-memory,trace,logging:slipstream=0af"
    assert ranks[0].all("http-restricted-api") == ranks[0].all("grpc-restricted-protocol") == (rule,)
    assert not ranks[1].all("http-restricted-api")


def test_a_dry_run_is_the_same_every_time() -> None:
    assert a_plan(SPLIT) == a_plan(SPLIT)


def test_the_prefix_of_a_dry_run_is_not_taken_for_one_of_a_dead_owner() -> None:
    # serve.shared_memory sweeps slipstream_PID_ where no such process runs.
    for rank in ranks_of(a_plan(SPLIT).argv):
        assert rank.prefix is not None
        assert not rank.prefix.removeprefix("slipstream_")[0].isdigit()


def test_the_cpu_target_has_no_ranks() -> None:
    with pytest.raises(SpecError, match="openvino"):
        a_plan("smollm2-135m-cpu")


def test_segments_stand_apart_by_single_colons() -> None:
    argv = a_plan(SPLIT).argv
    assert argv[-1] != ":"
    assert (":", ":") not in set(pairwise(argv))
