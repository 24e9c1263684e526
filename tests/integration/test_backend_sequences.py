"""Several sequences of one request, on every path: `num_return_sequences`, rows of a batch, and beams."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from slipstream.backend.words import pack
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served
from tests.integration.triton_calls import (
    PROMPT,
    Response,
    Stream,
    active_requests,
    ask,
    prompt_of,
    text,
    token_ids,
    wait_for_active,
)

ENGINE = "tensorrt_llm"
TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")
PROMPTS = (PROMPT, "Count: 1, 2, 3,")
DRAWN = {"top_k": 50, "temperature": 1.5}


def rows(*values: Any, dtype: Any = np.object_) -> npt.NDArray[Any]:
    """A tensor with one value a row."""
    return np.array([[value] for value in values], dtype)


def texts_of(responses: list[Response], index: str) -> list[str]:
    """The text of each row or sequence."""
    indices = sorted({response[index].item() for response in responses})
    return [text([one for one in responses if one[index].item() == number]) for number in indices]


def beams_of(response: Response) -> list[str]:
    return [one.decode() for one in response["text_output"].reshape(-1)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", TEXT_MODELS)
def test_every_sequence_of_a_prompt_comes_whole_on_every_path(served: Served, model: str, streaming: bool) -> None:
    wishes = {"text_input": PROMPT, "max_tokens": 6, "stream": streaming, "num_return_sequences": 3, "end_id": -1}
    responses = ask(served, model, **wishes, **DRAWN, seed=7, return_num_output_tokens=True)
    assert sum(response["num_output_tokens"].item() for response in responses) == 18
    assert 3 < len(responses) <= 18 if streaming else len(responses) == 3  # tokens that are ready travel together
    written = texts_of(responses, "sequence_index")
    assert len(set(written)) == 3
    assert all(written)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", TEXT_MODELS)
def test_every_row_of_a_batch_is_a_request_of_its_own(served_accuracy: Served, model: str, streaming: bool) -> None:
    def alone(prompt: str, **wishes: Any) -> str:
        return text(ask(served_accuracy, model, text_input=prompt, stream=streaming, **wishes))

    own = [{"max_tokens": 5}, {"max_tokens": 9, "stop_words": " 6"}]
    both = ask(
        served_accuracy,
        model,
        text_input=rows(*PROMPTS),
        max_tokens=rows(5, 9, dtype=np.int32),
        stop_words=rows("", " 6"),
        stream=rows(streaming, False, dtype=np.bool_),  # the first row says it for all
    )
    assert texts_of(both, "batch_index") == [
        alone(prompt, **wishes) for prompt, wishes in zip(PROMPTS, own, strict=True)
    ]


def test_rows_of_ids_are_cut_to_their_lengths(served_accuracy: Served) -> None:
    tokenizer = Tokenizer.load(served_accuracy.model_dir)
    short, long = sorted((tokenizer.encode(prompt) for prompt in PROMPTS), key=len)
    filled = [short + [0] * (len(long) - len(short)), long]
    both = ask(
        served_accuracy,
        ENGINE,
        input_ids=np.array(filled, np.int32),
        input_lengths=rows(len(short), len(long), dtype=np.int32),
        request_output_len=rows(4, 4, dtype=np.int32),
        num_return_sequences=rows(1, 2, dtype=np.int32),
    )
    places = [
        (one["batch_index"].item(), one["sequence_index"].item() if "sequence_index" in one else None) for one in both
    ]
    assert sorted(places, key=str) == [(0, None), (1, 0), (1, 1)]
    expected = {
        row: token_ids(ask(served_accuracy, ENGINE, **prompt_of(ids, 4))) for row, ids in enumerate((short, long))
    }
    assert all(token_ids([one]) == expected[one["batch_index"].item()] for one in both)


def test_a_row_that_cannot_be_served_refuses_them_all(served: Served) -> None:
    for model in TEXT_MODELS:
        with pytest.raises(Exception, match="row 1 of the batch: the prompt has 3001 tokens"):
            ask(served, model, text_input=rows("a", "a " * 3000), max_tokens=rows(2, 2, dtype=np.int32))
        assert active_requests(served) == 0


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", TEXT_MODELS)
def test_beams_come_in_one_response_best_first(served: Served, model: str, streaming: bool) -> None:
    wishes = {"text_input": PROMPT, "max_tokens": 6, "stream": streaming, "beam_width": 4}
    (found,) = ask(served, model, **wishes, return_log_probs=True, num_return_sequences=3)
    assert len(set(beams_of(found))) == 3
    scores = found["cum_log_probs"].reshape(-1).tolist()
    assert scores == sorted(scores, reverse=True)
    assert found["output_log_probs"].shape[:2] == (1, 3)
    assert found["sequence_index"].item() == 0


@pytest.mark.parametrize("end_id", [2, -1])
def test_a_beam_ends_with_a_stop_word(served: Served, end_id: int) -> None:
    tokenizer = Tokenizer.load(served.model_dir)
    for word in (".", " capital of"):
        stop = np.array([pack([tokenizer.encode(word, add_special_tokens=False)])])
        wishes = {"beam_width": 3, "stop_words_list": stop, "end_id": end_id}
        (found,) = ask(served, ENGINE, **prompt_of(tokenizer.encode(PROMPT), 20), **wishes)
        lengths = found["sequence_length"][0].tolist()
        ended = [tokenizer.decode(row[:length]) for row, length in zip(found["output_ids"][0], lengths, strict=True)]
        assert any(one.endswith(word) for one in ended)
        assert not any(word in one[: -len(word)] for one in ended)


@pytest.mark.parametrize("model", TEXT_MODELS)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beam_width": 17}, "beam_width is 17, it must be from 1 to 16, the max_beam_width"),
        ({"beam_width": 2, "num_return_sequences": 3}, "there are no more beams to return"),
        ({"beam_width": 2, "temperature": 0.7}, "temperature is 0.7: the engine's beam search leaves it out"),
        ({"beam_width": 2, "bad_words": "x"}, "bad_words_list is given: the engine's beam search follows no grammar"),
        ({"num_return_sequences": 257}, "the limit of a request is 256"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0, it must be at least 1"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(served: Served, model: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        ask(served, model, text_input=PROMPT, max_tokens=4, **changes)


GUIDES = {
    "guided_decoding_guide_type": rows("regex", "regex"),
    "guided_decoding_guide": rows("[a-z]{3}", "[0-9]{4}"),
}


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_every_row_follows_its_own_guide(served: Served, model: str) -> None:
    wishes = {"text_input": rows(*PROMPTS), "max_tokens": rows(9, 9, dtype=np.int32)}
    letters, digits = texts_of(ask(served, model, **wishes, **GUIDES), "batch_index")
    assert letters.isalpha()
    assert digits.isdigit()
    broken = {**GUIDES, "guided_decoding_guide": rows("[a-z]{3}", "(b")}
    with pytest.raises(Exception, match="parenthesis is not closed"):
        ask(served, model, **wishes, **broken)


LONG = {"text_input": PROMPT, "max_tokens": 1500, "end_id": -1, "stream": True}
SEVERAL = {"num_return_sequences": 3, **DRAWN}


@pytest.mark.parametrize(
    ("model", "values", "running"),
    [
        (ENGINE, {"num_return_sequences": 3, "runtime_top_k": 50, "streaming": True}, 3),
        (ENGINE, {"beam_width": 4}, 1),
        ("ensemble", {**LONG, **SEVERAL}, 3),
        ("tensorrt_llm_bls", {**LONG, **SEVERAL}, 3),
        ("tensorrt_llm_bls", {**LONG, "beam_width": 4}, 1),
    ],
)
def test_a_client_that_goes_away_ends_all_its_sequences(
    served: Served, model: str, values: dict[str, Any], running: int
) -> None:
    ids = Tokenizer.load(served.model_dir).encode(PROMPT)
    stream = Stream(served)
    stream.start(model, **(prompt_of(ids, 1500) if model == ENGINE else {}), **values)
    wait_for_active(served, running)
    if "beam_width" not in values:
        stream.next()
    stream.close()
    wait_for_active(served, 0)  # in time, or it fails
    assert active_requests(served) == 0


def test_a_stop_request_ends_all_sequences_of_its_id(served: Served) -> None:
    ids = Tokenizer.load(served.model_dir).encode(PROMPT)
    stream, stopping = Stream(served), Stream(served)
    for part in ({"num_return_sequences": 3, "streaming": True}, {"beam_width": 3}):
        stream.start(ENGINE, request_id="9", **prompt_of(ids, 1500), **part)
        wait_for_active(served, part.get("num_return_sequences", 1))
        stopping.start(ENGINE, request_id="9", stop=True, **prompt_of([1], 1))
        assert stopping.rest() == []
        assert len(token_ids(stream.rest())) < 1500
        wait_for_active(served, 0)
    stream.close()
    stopping.close()
