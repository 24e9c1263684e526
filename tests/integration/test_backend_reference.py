"""Penalties, log-probs and seeds in the accuracy mode, against Hugging Face's model with the same rounded weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slipstream.engine.quantize_rows import quantize_rows
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served
from tests.integration.triton_calls import PROMPT, ask, prompt_of, text, token_ids

ENGINE = "tensorrt_llm"
NUM_TOKENS = 20
LOG_PROB_TOLERANCE = 5e-3  # measured 1e-3
LOGIT_TOLERANCE = 1e-3  # measured 1e-4


@pytest.fixture(scope="module")
def reference(artifacts: Path) -> Any:
    """The Hugging Face model in float32 with the weights of its linear layers rounded to INT8 rows."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(artifacts / "model", dtype=torch.float32).eval()
    for name, part in model.named_modules():
        if isinstance(part, torch.nn.Linear) and name != "lm_head":
            rows = quantize_rows(part.weight.detach().numpy())
            part.weight.data = torch.from_numpy(rows.values * rows.row_scales[:, None])
    return model


@pytest.fixture(scope="module")
def prompt(artifacts: Path) -> list[int]:
    return Tokenizer.load(artifacts / "model").encode(PROMPT)


def engine(served: Served, prompt: list[int], **inputs: Any) -> list[int]:
    return token_ids(ask(served, ENGINE, **prompt_of(prompt, NUM_TOKENS), exclude_input_in_output=True, **inputs))


def hugging_face(model: Any, prompt: list[int], *, end_id: int | None = None, **settings: Any) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=end_id,
            pad_token_id=0,
            **settings,
        )
    output: list[int] = whole[0, len(prompt) :].tolist()
    return output[:-1] if output[-1] == end_id else output


def with_output_penalty(model: Any, prompt: list[int], *, presence: float, frequency: float) -> list[int]:
    """Greedy tokens when every token of the output, and none of the prompt, is penalized."""
    output: list[int] = []
    with torch.inference_mode():
        for _ in range(NUM_TOKENS):
            logits = model(torch.tensor([[*prompt, *output]])).logits[0, -1]
            counts = torch.bincount(torch.tensor(output, dtype=torch.int64), minlength=len(logits))
            output.append(int((logits - presence * (counts > 0) - frequency * counts).argmax()))
    return output


def log_probs(model: Any, prompt: list[int], output: list[int]) -> Any:
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *output]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)[range(len(output)), output].numpy()


@pytest.mark.parametrize("penalty", [1.3, 0.8])
def test_repetition_penalty_is_hugging_faces(
    served_accuracy: Served, reference: Any, prompt: list[int], penalty: float
) -> None:
    written = engine(served_accuracy, prompt, repetition_penalty=penalty)
    assert written == hugging_face(reference, prompt, repetition_penalty=penalty)
    assert written != engine(served_accuracy, prompt)


@pytest.mark.parametrize(("presence", "frequency"), [(1.5, 0.0), (0.0, 1.0), (-0.5, 0.3)])
def test_presence_and_frequency_penalties_count_the_output(
    served_accuracy: Served, reference: Any, prompt: list[int], presence: float, frequency: float
) -> None:
    written = engine(served_accuracy, prompt, presence_penalty=presence, frequency_penalty=frequency)
    assert written == with_output_penalty(reference, prompt, presence=presence, frequency=frequency)
    assert written != engine(served_accuracy, prompt)


def test_no_end_before_min_tokens(served_accuracy: Served, reference: Any, prompt: list[int]) -> None:
    end_id = engine(served_accuracy, prompt)[1]
    assert len(engine(served_accuracy, prompt, end_id=end_id)) == 1
    written = engine(served_accuracy, prompt, end_id=end_id, min_tokens=6)
    assert len(written) >= 6
    assert written == hugging_face(reference, prompt, end_id=end_id, min_new_tokens=6)


@pytest.mark.parametrize("inputs", [{}, {"repetition_penalty": 1.5}, {"runtime_top_k": 9, "temperature": 1.7}])
def test_log_probs_are_those_of_the_models_own_logits(
    served_accuracy: Served, reference: Any, prompt: list[int], inputs: dict[str, float]
) -> None:
    wanted = {**prompt_of(prompt, NUM_TOKENS), "exclude_input_in_output": True, "return_log_probs": True, **inputs}
    (whole,) = ask(served_accuracy, ENGINE, **wanted)
    expected = log_probs(reference, prompt, token_ids([whole]))
    assert whole["output_log_probs"].shape == (1, 1, NUM_TOKENS)
    np.testing.assert_allclose(whole["output_log_probs"][0, 0], expected, atol=LOG_PROB_TOLERANCE)
    assert whole["cum_log_probs"].item() == pytest.approx(expected.sum(), abs=NUM_TOKENS * LOG_PROB_TOLERANCE)


def test_logits_are_those_of_the_reference(served_accuracy: Served, reference: Any, prompt: list[int]) -> None:
    wishes = {"return_context_logits": True, "return_generation_logits": True, "exclude_input_in_output": True}
    (found,) = ask(served_accuracy, ENGINE, **prompt_of(prompt, NUM_TOKENS), **wishes)
    ids = token_ids([found])
    with torch.inference_mode():
        rows = reference(torch.tensor([[*prompt, *ids[:-1]]])).logits.numpy()
    np.testing.assert_allclose(found["context_logits"], rows[:, : len(prompt)], atol=LOGIT_TOLERANCE)
    np.testing.assert_allclose(found["generation_logits"][0], rows[:, len(prompt) - 1 :], atol=LOGIT_TOLERANCE)
    assert found["generation_logits"][0, 0].argmax(axis=-1).tolist() == ids


def test_log_probs_stay_with_their_tokens_when_the_end_id_is_cut_off(
    served_accuracy: Served, reference: Any, prompt: list[int]
) -> None:
    end_id = engine(served_accuracy, prompt)[2]
    for streaming in (True, False):
        wishes = {"return_log_probs": True, "exclude_input_in_output": True, "streaming": streaming}
        parts = ask(served_accuracy, ENGINE, **prompt_of(prompt, NUM_TOKENS), end_id=end_id, **wishes)
        ids = token_ids(parts)
        given = [value for part in parts for value in part["output_log_probs"].reshape(-1).tolist()]
        assert len(ids) == 2
        np.testing.assert_allclose(given, log_probs(reference, prompt, ids), atol=LOG_PROB_TOLERANCE)
        assert parts[-1]["cum_log_probs"].item() == pytest.approx(sum(given), abs=1e-4)


@pytest.mark.parametrize(
    ("width", "end_text", "settings", "theirs"),
    [
        (3, None, {}, {"length_penalty": 0.0, "early_stopping": True}),
        (4, ".", {}, {"length_penalty": 0.0, "early_stopping": True}),
        (4, ".", {"len_penalty": 1.5, "early_stopping": False}, {"length_penalty": 1.5, "early_stopping": False}),
    ],
)
def test_beams_are_hugging_faces(
    served_accuracy: Served,
    reference: Any,
    prompt: list[int],
    width: int,
    end_text: str | None,
    settings: dict[str, Any],
    theirs: dict[str, Any],
) -> None:
    end_id = Tokenizer.load(served_accuracy.model_dir).encode(end_text)[0] if end_text else None
    wishes = {"beam_width": width, "exclude_input_in_output": True, "return_log_probs": True, **settings}
    end = {} if end_id is None else {"end_id": end_id}
    (found,) = ask(served_accuracy, ENGINE, **prompt_of(prompt, NUM_TOKENS), **wishes, **end)
    expected, scores = hugging_faces_beams(reference, prompt, width, end_id, theirs)
    lengths = found["sequence_length"][0].tolist()
    rows = found["output_ids"][0].tolist()
    assert found["output_ids"].shape == (1, width, max(lengths))
    assert [row[:length] for row, length in zip(rows, lengths, strict=True)] == expected
    assert all(set(row[length:]) <= {-1} for row, length in zip(rows, lengths, strict=True))
    with_end = [length + (length < NUM_TOKENS) for length in lengths]
    penalized = found["cum_log_probs"][0] / np.power(with_end, float(theirs["length_penalty"]))
    np.testing.assert_allclose(penalized, scores, atol=NUM_TOKENS * LOG_PROB_TOLERANCE)
    shown = found["output_log_probs"][0, 0, : lengths[0]]
    np.testing.assert_allclose(shown, log_probs(reference, prompt, expected[0]), atol=LOG_PROB_TOLERANCE)


def hugging_faces_beams(
    model: Any, prompt: list[int], width: int, end_id: int | None, settings: dict[str, Any]
) -> tuple[list[list[int]], list[float]]:
    """The beams without the token that ends them, best first, and their scores."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NUM_TOKENS,
            do_sample=False,
            eos_token_id=end_id,
            pad_token_id=0,
            num_beams=width,
            num_return_sequences=width,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
        )
    outputs = [row[len(prompt) :].tolist() for row in found.sequences]
    cut = [output[: output.index(end_id)] if end_id in output else output for output in outputs]
    return cut, found.sequences_scores.tolist()


def test_one_beam_is_greedy(served_accuracy: Served, prompt: list[int]) -> None:
    assert engine(served_accuracy, prompt, beam_width=1, len_penalty=2.0) == engine(served_accuracy, prompt)


def test_sequences_are_those_of_the_seeds_that_follow(served_accuracy: Served, prompt: list[int]) -> None:
    drawn = {"runtime_top_k": 50, "temperature": 1.5}
    alone = [engine(served_accuracy, prompt, seed=seed, **drawn) for seed in (7, 8, 9)]
    assert len(set(map(tuple, alone))) > 1
    wished = {**prompt_of(prompt, NUM_TOKENS), **drawn, "seed": 7, "num_return_sequences": 3}
    for streaming in (False, True):
        written: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for part in ask(served_accuracy, ENGINE, **wished, exclude_input_in_output=True, streaming=streaming):
            written[part["sequence_index"].item()] += token_ids([part])
        assert list(written.values()) == alone


def test_a_seed_repeats_itself_whatever_was_asked_before(served_accuracy: Served) -> None:
    """In the performance mode it does not: a prompt that an earlier request left in the KV cache moves the logits."""

    def sampled(seed: int, prompt: str = "The largest city of Spain is") -> str:
        sampling = {"temperature": 1.5, "top_k": 50, "seed": seed}
        return text(ask(served_accuracy, "ensemble", text_input=prompt, max_tokens=16, stream=True, **sampling))

    fresh = sampled(7)
    others = {sampled(seed) for seed in (8, 9, 10)}
    stopped = {"text_input": "The largest city of Spain is", "stop_words": " ", "stream": True}
    ask(served_accuracy, "ensemble", max_tokens=16, **stopped)
    assert {sampled(7) for _ in range(5)} == {fresh}
    assert len({fresh, *others}) > 1
