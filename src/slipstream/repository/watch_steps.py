"""The steps of the ensemble beyond the contract's, on the embedded engine: through them it hears of lost clients.

The first is a second request to the engine, the watch, whose responses come while the generation is silent; the second
asks whether the ensemble's client has gone. Neither gives an output of the ensemble, so no client sees anything of it.
See `slipstream.backend.presence`.
"""

from __future__ import annotations

from slipstream.repository.contract import EnsembleStep

WATCH_STEPS = (
    EnsembleStep(
        model_name="tensorrt_llm",
        model_version=-1,
        input_map={
            "input_lengths": "_REQUEST_INPUT_LEN",
            "request_output_len": "_REQUEST_OUTPUT_LEN",
            "prompt_table_extra_ids": "_OUT_PROMPT_TABLE_EXTRA_IDS",
        },
        output_map={"output_ids": "_WATCH_IDS", "sequence_length": "_WATCH_LENGTH"},
    ),
    EnsembleStep(
        model_name="postprocessing",
        model_version=-1,
        input_map={"TOKENS_BATCH": "_WATCH_IDS", "SEQUENCE_LENGTH": "_WATCH_LENGTH"},
        output_map={"OUTPUT": "decoder_text_input"},
    ),
)
