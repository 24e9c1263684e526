"""What stops ranks from starting is said before they start: each refusal, from a machine on which all is well."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipstream.errors import SlipstreamError
from slipstream.project import Workspace
from slipstream.serve.launch import LaunchTarget
from slipstream.serve.ports import is_free, resolve_ports
from slipstream.serve.preflight import SHM_BYTES, BusyPort, EngineFiles, Facts, preflight, require_ready
from slipstream.serve.preflight_facts import engine_files, gather, lws_hosts, visible_gpus
from slipstream.spec import DeploymentSpec
from tests.unit.test_launch import DRAFT, LLMAPI, ONE, SPLIT, TWO_NODES, a_spec

FAKES = Path(__file__).resolve().parents[1] / "fakes" / "bin"


def files(world_size: int | None, ranks: int) -> EngineFiles:
    return EngineFiles(directory="/models/x/engine", world_size=world_size, ranks=frozenset(range(ranks)))


GOOD = Facts(
    gpus=8,
    shm_bytes=SHM_BYTES,
    memlock_bytes=None,
    programs=frozenset({"tritonserver", "mpirun", "trtllm-llmapi-launch", "kubessh"}),
    engines={"engine": files(8, 8)},
)


def found(spec: DeploymentSpec, facts: Facts, for_: LaunchTarget = "local") -> list[str]:
    return [refusal.message for refusal in preflight(spec, facts, for_=for_)]


def test_a_machine_on_which_all_is_well_may_start() -> None:
    assert found(a_spec(SPLIT), GOOD) == []
    require_ready(a_spec(SPLIT), GOOD)
    assert found(a_spec(SPLIT, *TWO_NODES), replace(GOOD, machines=2), "slurm") == []
    assert found(a_spec(SPLIT, *TWO_NODES), replace(GOOD, machines=2), "lws") == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"programs": frozenset({"tritonserver"})}, "mpirun is not on the PATH"),
        ({"programs": frozenset({"mpirun"})}, "tritonserver is not on the PATH"),
        ({"gpus": None}, "nvidia-smi shows no GPU"),
        ({"gpus": 7}, "7 GPUs are visible, 8 ranks on this machine need a GPU each: 8 are needed"),
        ({"shm_bytes": 64 << 20}, "/dev/shm has 64 MiB, the models' processes need 1024 MiB"),
        ({"engines": {"engine": files(None, 0)}}, "no readable config.json, engine has not been built"),
        ({"engines": {"engine": files(4, 4)}}, "was built for 4 ranks, the spec says 8"),
        ({"engines": {"engine": files(8, 6)}}, "rank6.engine, rank7.engine missing, config.json says 8 ranks"),
        ({"busy_ports": (BusyPort(name="grpc", port=8001),)}, "port 8001 (runtime.ports.grpc) is busy"),
    ],
)
def test_each_thing_that_is_not_well_is_named(changes: dict[str, Any], expected: str) -> None:
    [message] = found(a_spec(SPLIT), replace(GOOD, **changes))
    assert expected in message
    assert message.startswith(f"{SPLIT}: ")


def test_one_server_needs_no_mpirun() -> None:
    alone = replace(GOOD, programs=frozenset({"tritonserver"}), gpus=1)
    assert found(a_spec(ONE), replace(alone, engines={"engine": files(1, 1)})) == []
    assert found(a_spec(LLMAPI), replace(alone, engines={})) == []


def test_an_orchestrator_of_one_rank_still_needs_the_gpus_of_all() -> None:
    engines = {"engine": files(4, 4), "engine.draft": files(4, 4)}
    assert found(a_spec(DRAFT), replace(GOOD, engines=engines)) == []
    [message] = found(a_spec(DRAFT), replace(GOOD, engines=engines, gpus=2))
    assert "2 GPUs are visible" in message
    [message] = found(a_spec(DRAFT), replace(GOOD, engines=engines, programs=frozenset({"tritonserver"})))
    assert "mpirun is not on the PATH" in message


def test_named_gpus_must_be_there() -> None:
    sets = (
        "engine.tp_size=2",
        "runtime.launch_mode=orchestrator",
        "runtime.engine_instances=2",
        "runtime.tensorrt_llm.gpu_device_ids=0,1;6,7",
    )
    engines = {"engine": files(2, 2)}
    assert found(a_spec(SPLIT, *sets), replace(GOOD, engines=engines)) == []
    [message] = found(a_spec(SPLIT, *sets), replace(GOOD, engines=engines, gpus=4))
    assert "gpu_device_ids is 0,1;6,7: 8 are needed" in message


@pytest.mark.parametrize(
    ("for_", "changes", "expected"),
    [
        ("slurm", {"machines": 3}, "the scheduler gave 3 machines, the ranks need 2"),
        ("lws", {"machines": 1}, "the scheduler gave 1 machines, the ranks need 2"),
        ("lws", {"unknown_hosts": ("llama-0-1.llama",)}, "the host llama-0-1.llama has no address"),
        ("lws", {"programs": frozenset({"tritonserver", "mpirun"})}, "kubessh is not on the PATH"),
        ("slurm", {"memlock_bytes": 8 << 20}, "ulimit -l is 8192 KiB"),
    ],
)
def test_several_machines_need_more(for_: LaunchTarget, changes: dict[str, Any], expected: str) -> None:
    [message] = found(a_spec(SPLIT, *TWO_NODES), replace(GOOD, **changes), for_)
    assert expected in message


def test_locked_memory_is_no_matter_on_one_machine() -> None:
    assert found(a_spec(SPLIT), replace(GOOD, memlock_bytes=8 << 20)) == []


def test_everything_is_named_at_once_with_its_mend() -> None:
    with pytest.raises(SlipstreamError) as caught:
        require_ready(a_spec(SPLIT), replace(GOOD, gpus=None, shm_bytes=0))
    assert "no GPU" in caught.value.message
    assert "/dev/shm" in caught.value.message
    assert "--gpus all" in caught.value.mend
    assert "--shm-size" in caught.value.mend


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 4),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5"}, 4),
    ],
)
def test_gpus_are_those_that_cuda_would_see(environment: Mapping[str, str], expected: int) -> None:
    assert visible_gpus(machine(4) | environment) == expected


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path) -> None:
    assert visible_gpus({"PATH": str(tmp_path)}) is None
    assert visible_gpus(machine(0)) is None


def machine(gpus: int) -> dict[str, str]:
    """The environment of a machine with stand-ins for NVIDIA's programs."""
    return {"PATH": f"{FAKES}:/usr/local/bin:/usr/bin:/bin", "FAKE_GPUS": str(gpus)}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pretrained_config": {"mapping": {"world_size": 2}}}, 2),
        ({"pretrained_config": {"mapping": {}}}, None),
        ({"pretrained_config": {"mapping": {"world_size": "2"}}}, None),
        ([], None),
    ],
)
def test_an_engine_says_its_ranks(tmp_path: Path, config: object, expected: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("rank0.engine", "rank1.engine", "rank.engine", "rankX.engine"):
        (tmp_path / name).touch()
    assert engine_files(tmp_path) == EngineFiles(directory=str(tmp_path), world_size=expected, ranks=frozenset({0, 1}))


def test_the_facts_of_this_machine_are_gathered(tmp_path: Path) -> None:
    spec, ports = a_spec(DRAFT), resolve_ports("auto")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/config.json").write_text(json.dumps({"pretrained_config": {"mapping": {"world_size": 4}}}))
    facts = gather(spec, Workspace(directory=tmp_path), ports, machine(4) | {"SLURM_JOB_NUM_NODES": "2"})
    assert facts.gpus == 4
    assert facts.programs >= {"tritonserver", "mpirun"}
    assert facts.machines == 2
    assert facts.engines["engine"].world_size == 4
    assert facts.engines["engine.draft"].directory == str(tmp_path / "draft/engine")
    assert facts.engines["engine.draft"].world_size is None
    assert facts.busy_ports == ()
    assert facts.shm_bytes > 0


def test_a_port_in_use_is_seen() -> None:
    ports = resolve_ports("auto")
    from socket import create_server

    with create_server(("127.0.0.1", ports.metrics)):
        assert not is_free(ports.metrics)
        facts = gather(a_spec(LLMAPI), Workspace(directory=Path("/nowhere")), ports, machine(1))
    assert facts.busy_ports == (BusyPort(name="metrics", port=ports.metrics),)


def test_the_pods_of_a_group_follow_from_the_leaders_address() -> None:
    environment = {"LWS_LEADER_ADDRESS": "llama-2.llama.prod", "LWS_GROUP_SIZE": "3"}
    assert lws_hosts(environment) == ("llama-2.llama.prod", "llama-2-1.llama.prod", "llama-2-2.llama.prod")
    assert lws_hosts({}) == ()


def test_every_refusal_names_a_mend() -> None:
    bare = replace(GOOD, gpus=None, shm_bytes=0, memlock_bytes=0, programs=frozenset(), machines=9)
    refusals = preflight(a_spec(SPLIT, *TWO_NODES), bare, for_="lws")
    assert len(refusals) == 7
    assert all(re.search(r"\w", refusal.mend) for refusal in refusals)
