"""The walkthrough leaves out no step that the next one needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from slipstream.walkthrough import CHAPTERS, walkthrough

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())


def chapters() -> dict[str, str]:
    page = walkthrough(ROOT).replace(" \\\n  ", " ")
    _, *texts = page.split("\n## ")
    return {chapter.deployment: text for chapter, text in zip(CHAPTERS, texts, strict=True)}


@pytest.mark.parametrize("name", chapters())
def test_a_repository_is_rendered_after_the_engine_and_before_the_server(name: str) -> None:
    text = chapters()[name]
    steps = [
        text.index("\ntrtllm-build "),
        text.index(f"\nslipstream render {name} "),
        text.rindex("--model-repository="),
    ]
    assert steps == sorted(steps)


@pytest.mark.parametrize("name", chapters())
def test_every_chapter_says_how_its_artifacts_are_made(name: str) -> None:
    made = [line for line in chapters()[name].splitlines() if " docker compose " in line]
    assert [line.split()[-1] for line in made[:2]] == ["quantize", "build"]
    assert all(f"DEPLOYMENT={name} " in line for line in made)
    is_served_here = len(made) == 3
    assert is_served_here == ("nodes" not in (ROOT / f"deployments/{name}.yaml").read_text())
    # Where several nodes read the artifacts, the containers that make them keep them at the path that the nodes see.
    assert all(("MODELS=/models " in line) != is_served_here for line in made)


def test_what_compose_refuses_to_make_up_is_set_first() -> None:
    head = walkthrough(ROOT).partition("\n## ")[0]
    [mount] = [mount for mount in COMPOSE["services"]["build"]["volumes"] if mount["target"] == "/models"]
    assert mount["bind"] == {"create_host_path": False}
    assert "mkdir -p build\n" in head
    assert "HF_TOKEN_FILE" in COMPOSE["secrets"]["hf_token"]["file"]
    assert all(f"{name}=$" in head for name in ("SLIPSTREAM_UID", "SLIPSTREAM_GID", "HF_TOKEN_FILE"))
