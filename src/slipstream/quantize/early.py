"""Refuses a run that cannot work before its model is downloaded or dequantized, from the model's config alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slipstream.formats import KvCache
from slipstream.progress import Reporter
from slipstream.quantize.architectures import Architecture, read_architecture, supported_architecture
from slipstream.quantize.bundled import PREFIX, bundled_gguf
from slipstream.quantize.disk_space import FREE_SPACE, DiskNeed, check_disk
from slipstream.quantize.export import ExportPlan
from slipstream.quantize.gguf_checkpoint import read_hf_config
from slipstream.quantize.hub import cached_bytes, check_hub_id, fetch_config, hub_cache
from slipstream.quantize.local_model import check_model_directory
from slipstream.quantize.memory import check_memory, count_parameters
from slipstream.quantize.model import gguf_file, is_gguf, is_path
from slipstream.quantize.planning import checkpoint_need, estimate_run, plan_for
from slipstream.quantize.recipes import Recipe
from slipstream.quantize.safetensors_files import Dtype
from slipstream.quantize.sharding import Parallel


def refuse_early(
    source: str,
    *,
    recipe: Recipe,
    kv_cache: KvCache,
    dtype: Dtype,
    tp_size: int,
    pp_size: int,
    moe_ep_size: int,
    workspace: Path,
    report: Reporter,
) -> None:
    """Raise for what `write_checkpoint` would refuse of the model that `source` names: family, sharding, memory, disk.

    Reads a GGUF's metadata or a directory's config.json; of a hub id only config.json is fetched. `workspace` is where
    model and checkpoint are going to be written, and need not exist. The estimate of the run goes to `report`.
    """
    architecture = source_architecture(source, dtype, report)
    parallel = Parallel(tp_size=tp_size, pp_size=pp_size, moe_ep_size=moe_ep_size)
    plan = plan_for(architecture, recipe=recipe, kv_cache=kv_cache, parallel=parallel, dtype=dtype)
    check_memory(estimate_run(plan, recipe), report)
    check_disk(tuple(_disk_needs(source, plan, recipe, workspace)))


def source_architecture(source: str, dtype: Dtype, report: Reporter) -> Architecture:
    """What `source` is, without its weights; refused by name where it cannot be exported."""
    if source.startswith(PREFIX) or is_gguf(source):
        path = bundled_gguf(source.removeprefix(PREFIX)) if source.startswith(PREFIX) else gguf_file(source)
        report(f"reading {path.name}")
        return supported_architecture(path, read_hf_config(path, dtype))
    if is_path(source):
        directory = Path(source).expanduser()
        check_model_directory(directory)
        return read_architecture(directory)
    check_hub_id(source)
    return read_architecture(fetch_config(source, report))


def _disk_needs(source: str, plan: ExportPlan, recipe: Recipe, workspace: Path) -> Iterator[DiskNeed]:
    architecture = plan.architecture
    is_tied = bool(architecture.hf_config.get("tie_word_embeddings", False))
    weights_bytes = 2 * count_parameters(architecture.shape, tied=is_tied)
    if source.startswith(PREFIX) or is_gguf(source):
        yield DiskNeed(what="the model", directory=workspace, size_bytes=weights_bytes, mend=FREE_SPACE)
    elif not is_path(source):
        yield DiskNeed(
            what="the download",
            directory=hub_cache(),
            size_bytes=max(0, weights_bytes - cached_bytes(source)),
            mend="set HF_HOME to a directory on a larger disk",
        )
    yield checkpoint_need(plan, recipe, workspace)
