"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from slipstream import commands, serving_commands
from slipstream.cli import main

DEFAULT = "smollm2-135m-cpu"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


def test_the_stages_are_refused_in_order_with_the_mend(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "build", DEFAULT, "--out", str(tmp_path))
    assert (code, out) == (3, "")
    assert "there is no model yet" in err
    assert f"mend: slipstream quantize {DEFAULT}" in err
    assert "Traceback" not in err


def test_a_bad_spec_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "quantize", DEFAULT, "--set", "engine.tp_sise=2")
    assert code == 2
    assert "did you mean tp_size?" in err


def test_an_unknown_verb_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "quantise", DEFAULT)
    assert code == 2
    assert "quantize" in err


def test_a_place_that_cannot_be_written_is_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "quantize", DEFAULT, "--out", str(tmp_path / "file" / "x"))
    assert code == 1
    assert "cannot be written" in err
    assert "Traceback" not in err


def test_a_missing_model_directory_is_one_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    code, _, err = run(capsys, "quantize", DEFAULT, "--out", str(tmp_path), "--set", f"model.source={missing}")
    assert code in (1, 2)
    assert str(missing) in err
    assert "mend:" in err


def test_gpu_deployments_are_not_served_here(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "up", "llama-3.1-8b-fp8-h100")
    assert code == 1
    assert "trtllm-build, which comes with TensorRT-LLM, is not on this machine's PATH" in err


def test_down_of_what_is_not_served_is_no_failure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "down", DEFAULT, "--out", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out) == {"deployment": DEFAULT, "stopped": False}


def test_chat_with_what_is_not_served_says_how_to_start_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "chat", DEFAULT, "hello", "--out", str(tmp_path))
    assert code == 1
    assert f"slipstream up {DEFAULT} --detach" in err


def test_status_lists_every_deployment(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "status", "--json")
    assert code == 0
    assert DEFAULT in {row["deployment"] for row in json.loads(out)["deployments"]}


def test_outside_a_project_the_checkout_is_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "status", "--json")
    assert code == 0
    assert json.loads(out)["deployments"]


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for verb in ("quantize", "build", "render", "serve", "up", "down", "status", "chat", "schema"):
        assert verb in out


def test_a_path_that_a_shell_would_read_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "render", DEFAULT, "--out", str(tmp_path / "my $(touch x) project"))
    assert code == 1
    assert "special character in the path" in err


def test_down_of_a_mistyped_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "down", "smollm2-135m-cpuu")
    assert code == 2
    assert f"did you mean {DEFAULT}?" in err


def test_a_full_disk_is_one_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(commands, "print_json", full)
    code, _, err = run(capsys, "status", "--json")
    assert code == 1
    assert f"{tmp_path / 'x'}: No space left on device" in err
    assert "Traceback" not in err


def test_a_recipe_that_does_not_exist_is_refused_before_the_model_is_fetched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = ("--set", "quantization.recipe=int9_wo")
    code, _, err = run(capsys, "quantize", "llama-3.1-8b-fp8-h100", *recipe, "--out", str(tmp_path))
    assert code == 2
    assert "there is no recipe 'int9_wo', did you mean int8_wo?" in err


def test_gpu_engines_are_not_built_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = run(capsys, "build", "llama-3.1-8b-fp8-h100", "--out", str(tmp_path))
    assert code == 1
    assert "trtllm-build, which comes with TensorRT-LLM, is not on this machine's PATH" in err


def test_the_embedded_server_stays_on_loopback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for verb in ("serve", "up"):
        code, _, err = run(capsys, verb, "smollm2-135m-cpu", "--address", "0.0.0.0", "--out", str(tmp_path))
        assert code == 1
        assert "it stays on 127.0.0.1" in err
    code, _, err = run(capsys, "serve", "smollm2-135m-cpu", "--address", "10.0.0.1", "--out", str(tmp_path))
    assert code == 2


def test_a_dry_run_and_a_doctor_print_one_object(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "up", "llama-3.1-8b-fp8-h100", "--dry-run", "--json", "--out", str(tmp_path))
    assert code == 0
    assert {"commands", "files", "memory"} <= set(json.loads(out))
    code, out, _ = run(capsys, "doctor", "llama-3.1-8b-fp8-h100", "--json", "--out", str(tmp_path))
    assert code == 0
    assert set(json.loads(out)) == {"verdict", "findings"}
    too_small = ("--set", "hardware.gpu=L4", "--set", "engine.tp_size=2")
    code, out, _ = run(capsys, "doctor", "llama-3.3-70b-fp8-tp4-draft", *too_small, "--json", "--out", str(tmp_path))
    assert code == 1
    assert json.loads(out)["verdict"] == "blocked"


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        ("llama-3.1-8b-nvfp4-llmapi-b200", "the LLM API has no model `ensemble`"),
        ("llama-3.3-70b-fp8-tp4-draft", "runtime.decoupled is false, no reply is streamed"),
    ],
)
def test_a_model_that_cannot_stream_to_a_terminal_is_not_asked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, deployment: str, said: str
) -> None:
    code, _, err = run(capsys, "up", deployment, "--ask", "hello", "--out", str(tmp_path))
    assert code == 1
    assert said in err
    assert "/generate" in err  # how it is asked instead


def test_chat_reads_from_the_repository_what_a_gpu_serves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, _ = run(capsys, "render", "llama-3.3-70b-fp8-tp4-draft", "--out", str(tmp_path))
    assert code == 0
    state = SimpleNamespace(is_ready=True, triton_grpc="127.0.0.1:1")
    monkeypatch.setattr(serving_commands, "read_state", lambda _run: state)
    code, _, err = run(capsys, "chat", "llama-3.3-70b-fp8-tp4-draft", "hello", "--out", str(tmp_path))
    assert code == 1
    assert "llama-3.3-70b-fp8-tp4-draft: runtime.decoupled is false" in err
    (tmp_path / "model_repository" / "manifest.json").write_text("{}")
    code, _, err = run(capsys, "chat", "llama-3.3-70b-fp8-tp4-draft", "hello", "--out", str(tmp_path))
    assert code == 3
    assert "the model repository is damaged" in err


def test_the_doctor_reports_artifacts_that_the_spec_has_since_made_impossible(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").mkdir()
    sets = ("--set", "hardware.gpu=A100 80GB SXM")  # which has no FP8
    code, out, err = run(capsys, "doctor", "llama-3.1-8b-fp8-h100", *sets, "--json", "--out", str(tmp_path))
    assert (code, err) == (1, "")
    assert "recipe-on-gpu" in {finding["id"] for finding in json.loads(out)["findings"]}


def test_the_llm_api_has_nothing_to_build(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "build", "llama-3.1-8b-nvfp4-llmapi-b200", "--json", "--out", str(tmp_path))
    assert code == 0
    assert "has nothing to build" in err
    assert json.loads(out) == {"stage": "engine", "path": None}
