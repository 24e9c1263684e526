"""The generations of one request: a row of its batch each, and each of `num_return_sequences`.

As in TensorRT-LLM's backend (`utils.cc`, `model_instance_state.cc`, `llmRequest.cpp`): every input is split by rows;
the sequences of a row are generations of their own, whose seeds are the request's plus 0, 1, 2, …; each answers in
responses of its own that carry `batch_index` when there are several rows and `sequence_index` when there are several
sequences; the final flag comes once, with the last response of all. So several of them need a decoupled model. With
beams a row stays one generation, and `num_return_sequences` says how many beams it gives.

A row that cannot be served refuses the whole request before anything begins, where there it fails alone. A generation
that fails later has an error as its last response, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from slipstream.backend.requests import ALONE, GenerationRequest, ModelProfile, Place, Sampling, read_request
from slipstream.backend.tensors import RequestRefusedError, Tensors, integer, is_given

MOST_GENERATIONS = 256  # of one request: a number of sequences is cheap to ask for
_SEEDS = 1 << 64


def read_requests(
    tensors: Tensors, *, request_id: str, profile: ModelProfile, speculation: str | None = None, timeout_us: int = 0
) -> tuple[GenerationRequest, ...]:
    """The generations that `tensors` ask for, row by row, with the parameters `speculation` and `timeout`.

    `RequestRefusedError` says what cannot be done.
    """
    rows = num_rows(tensors, "input_ids")
    read = partial(read_request, request_id=request_id, profile=profile, speculation=speculation, timeout_us=timeout_us)
    requests = tuple(request for row in range(rows) for request in _of_row(_row(tensors, row, rows), row, rows, read))
    if len(requests) > 1 and any(request.acceptance is not None for request in requests):
        raise RequestRefusedError(
            f"draft_logits: the request asks for {len(requests)} sequences, one can have its draft accepted this way"
        )
    if len(requests) > 1 and not profile.decoupled:
        raise RequestRefusedError(
            f"the request asks for {len(requests)} sequences in {rows} rows, but the model is not decoupled: it gives"
            " one response a request"
        )
    return requests


def num_rows(tensors: Tensors, name: str) -> int:
    """Rows of the request's batch, as tensor `name` has it."""
    tensor = tensors.get(name)
    return int(tensor.shape[0]) if tensor is not None and tensor.ndim > 1 and tensor.size else 1


def num_generations(tensors: Tensors, rows: int) -> int:
    """Generations that a request of `rows` rows has; as many responses come where it does not stream."""
    counting = {name: tensors[name] for name in ("beam_width", "num_return_sequences") if name in tensors}
    each = [_row(counting, row, rows) for row in range(rows)]
    return sum(1 if has_beams(of_row) else _num_sequences(of_row) for of_row in each)


def has_beams(tensors: Tensors) -> bool:
    """A row asks for beam search."""
    return is_given(tensors, "beam_width") and int(tensors["beam_width"].max()) > 1


def _num_sequences(tensors: Tensors) -> int:
    wanted = integer(tensors, "num_return_sequences")
    if wanted is not None and wanted < 1:
        raise RequestRefusedError(f"num_return_sequences is {wanted}, it must be at least 1")
    return wanted or 1


def _row(tensors: Tensors, row: int, rows: int) -> Tensors:
    if rows == 1:
        return tensors
    for name, tensor in tensors.items():
        if tensor.shape[0] != rows:
            raise RequestRefusedError(f"{name} has {tensor.shape[0]} rows, input_ids has {rows}")
    # Whether it streams is said of the whole request.
    return {name: tensor[:1] if name == "streaming" else tensor[row : row + 1] for name, tensor in tensors.items()}


def _of_row(
    tensors: Tensors, row: int, rows: int, read: Callable[[Tensors], GenerationRequest]
) -> Iterator[GenerationRequest]:
    try:
        wanted = _num_sequences(tensors)
        request = read(tensors)
        if request.beams is None and rows * wanted > MOST_GENERATIONS:
            raise RequestRefusedError(
                f"num_return_sequences is {wanted}: with {rows} rows these are {rows * wanted} sequences, the limit of"
                f" a request is {MOST_GENERATIONS}"
            )
    except RequestRefusedError as error:
        raise RequestRefusedError(f"row {row} of the batch: {error}" if rows > 1 else str(error)) from error
    batch_index = row if rows > 1 else None
    for number in range(1 if request.beams is not None else wanted):
        place = Place(batch_index=batch_index, sequence_index=number if wanted > 1 else None)
        # Every response asks whether its generation is alone: identity is the cheapest answer.
        place = ALONE if place == ALONE else place
        yield replace(request, sampling=_drawn_anew(request, number), place=place)


def _drawn_anew(request: GenerationRequest, number: int) -> Sampling | None:
    sampling = request.sampling
    return None if sampling is None else replace(sampling, seed=(sampling.seed + number) % _SEEDS)
