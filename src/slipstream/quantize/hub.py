"""A checkpoint on the Hugging Face hub: fetched where a network and the licence allow it."""

from __future__ import annotations

import re
from pathlib import Path

from slipstream.errors import SlipstreamError, SpecError
from slipstream.progress import Reporter
from slipstream.quantize.local_model import TAKEN

ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
OFFLINE_MEND = (
    "fetch it on a machine with a network (hf download {id} --local-dir DIR), copy DIR here"
    " and set model.source to its path"
)


def check_hub_id(hub_id: str) -> None:
    """Refuse what cannot be the name of a model on the hub."""
    if not ID_PATTERN.fullmatch(hub_id) or "--" in hub_id or ".." in hub_id:
        raise SpecError(
            f"model.source: {hub_id!r} is no directory here and no hub id",
            mend="give org/name, a path that begins with / ./ ../ or ~, or bundled:smollm2-135m-instruct",
        )


def fetch_from_hub(hub_id: str, report: Reporter) -> Path:
    """Directory with the files of `hub_id` that are needed, in huggingface_hub's cache; older fetches are reused."""
    report(f"fetching {hub_id} from the Hugging Face hub")
    return _fetch(hub_id, [*TAKEN, "model*.safetensors"])


def fetch_config(hub_id: str, report: Reporter) -> Path:
    """Directory with the config.json of `hub_id`, the only file that is fetched."""
    report(f"fetching config.json of {hub_id} from the Hugging Face hub")
    directory = _fetch(hub_id, ["config.json"])
    if not (directory / "config.json").is_file():
        raise SlipstreamError(
            f"model.source: {hub_id} has no config.json on the hub",
            mend="give a complete Hugging Face checkpoint; a GGUF is fetched by hand and given as a path",
        )
    return directory


def hub_cache() -> Path:
    """Where fetched files are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def cached_bytes(hub_id: str) -> int:
    """What of `hub_id` has been fetched already, files that are not whole yet included."""
    blobs = hub_cache() / f"models--{hub_id.replace('/', '--')}" / "blobs"
    return sum(path.stat().st_size for path in blobs.glob("*") if path.is_file())


def _fetch(hub_id: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except GatedRepoError as error:
        raise SlipstreamError(
            f"model.source: {hub_id} is gated: its licence must be accepted",
            mend=f"accept it at https://huggingface.co/{hub_id} and set HF_TOKEN to a token of that account",
        ) from error
    except RepositoryNotFoundError as error:
        raise SlipstreamError(
            f"model.source: the hub has no model {hub_id}, or it is private",
            mend="correct the name; for a private model set HF_TOKEN",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise SlipstreamError(
            f"model.source: {hub_id} cannot be fetched from the Hugging Face hub ({_first_line(error)})",
            mend=OFFLINE_MEND.format(id=hub_id),
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
