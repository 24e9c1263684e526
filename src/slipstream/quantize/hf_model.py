"""A Hugging Face model in memory: on a GPU that has room for it, else on the CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from safetensors import SafetensorError

from slipstream.errors import SlipstreamError
from slipstream.interrupts import deferred_interrupts
from slipstream.quantize.safetensors_files import FETCH_AGAIN

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ExportDtype = Literal["float16", "bfloat16"]  # the types that ModelOpt exports


def load_model(directory: Path, dtype: ExportDtype | Literal["float32"]) -> PreTrainedModel:
    """The model in `directory`: weights rounded to `dtype`, as they will be exported, and computing in float32."""
    with deferred_interrupts():
        import torch
        from transformers import AutoModelForCausalLM

    try:
        with quiet():
            model, found = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise SlipstreamError(
            f"{directory}: the model cannot be loaded ({_first_line(error)})", mend=FETCH_AGAIN
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:  # transformers would go on with random numbers in their place
        raise SlipstreamError(
            f"{directory}: {len(missing)} tensors of the model are not in its weights, first {missing[0]}",
            mend=FETCH_AGAIN,
        )
    whole = model.float().eval()
    return cast("PreTrainedModel", whole.to(compute_device(whole.num_parameters())))


def compute_device(parameters: int) -> str:
    """`cuda` where the first GPU has room for so many parameters in float32, and half as much again; else `cpu`."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    free_bytes, _total = torch.cuda.mem_get_info()
    return "cuda" if free_bytes > 1.5 * 4 * parameters else "cpu"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of transformers and ModelOpt off the terminal: standard output is for results."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), _no_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
