"""Verifying a draft by probabilities: one pass of the target over prompt and draft, without the pipeline."""

from __future__ import annotations

import numpy as np

from slipstream.backend.draft_acceptance import Rows, accept
from slipstream.backend.engine import Reply
from slipstream.backend.logits import Pass
from slipstream.backend.logits_replies import Rows as Computed
from slipstream.backend.messages import Ending, Tokens
from slipstream.backend.requests import GenerationRequest
from slipstream.backend.stream import Stream
from slipstream.errors import SlipstreamError

NO_HANDLE = 0  # the engine's own begin at 1: there is nothing to stop


def verify(stream: Stream, reply: Reply, rows: Computed) -> None:
    """Answer the request of `stream`, which brings `acceptance` and draws."""
    request = stream.request
    ids = [*request.prompt_ids, *request.draft_ids]
    try:
        if reply.is_cancelled():
            stream.push(Tokens(NO_HANDLE, [], ending=Ending.CANCELLED))
        else:
            stream.push(verified(request, rows(Pass(ids, len(request.prompt_ids) - 1))))
    except SlipstreamError as error:
        reply.fail(stream, error.message)
        return
    piece = stream.take()
    assert piece is not None, "the output has ended"
    reply.send(stream, piece)


def verified(request: GenerationRequest, rows: Rows) -> Tokens:
    """The output; `rows` [draft + 1, vocabulary] are the target's logits behind the prompt and each draft token."""
    stop, drawing = request.stop, request.sampling
    assert drawing is not None, "a greedy request is verified by equal tokens"
    assert request.acceptance is not None
    allowed, acceptance = rows.astype(np.float64), request.acceptance
    if stop.end_id is not None:
        allowed[: stop.min_new_tokens, stop.end_id] = -np.inf
        if request.wishes.is_bls_call:  # its draft model must not end, see `DraftTargetCall`
            acceptance = acceptance.without(stop.end_id)
    chance = np.random.default_rng(drawing.seed)
    ids = accept(allowed, request.draft_ids, acceptance, drawing, chance)[: stop.max_new_tokens]
    ending = Ending.LENGTH
    if stop.end_id in ids:
        ids, ending = ids[: ids.index(stop.end_id)], Ending.END_ID
    log_probs = [_log_prob(rows[position], token) for position, token in enumerate(ids)]
    return Tokens(NO_HANDLE, ids, log_probs if request.wishes.log_probs else None, ending)


def _log_prob(row: Rows, token: int) -> float:
    """The model's own, over the whole vocabulary."""
    shifted = row.astype(np.float64) - row.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
