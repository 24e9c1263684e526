"""The bundled model as a Hugging Face checkpoint: weights, tokenizer, chat template and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipstream.progress import silent
from slipstream.quantize.bundled import find_gguf
from slipstream.quantize.model import prepare_model
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.detokenizer import Detokenizer
from slipstream.text.tokenizer import Tokenizer
from tests.unit.small_tokenizers import SCRIPTS
from tests.unit.test_quantize_early import refusal

FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def model_directory(artifacts: Path) -> Path:
    return artifacts / "model"


@pytest.fixture(scope="module")
def tokenizer(model_directory: Path) -> Tokenizer:
    return Tokenizer.load(model_directory)


@pytest.fixture(scope="module")
def hf_tokenizer(model_directory: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_directory)


def test_a_second_preparation_gives_the_same_bytes(model_directory: Path, tmp_path: Path) -> None:
    report = prepare_model("bundled:smollm2-135m-instruct", "float16", tmp_path, silent)
    assert (report.parameters, report.layers, report.architecture) == (134_515_008, 30, "LlamaForCausalLM")
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (model_directory / name).read_bytes(), name


def test_the_weights_equal_those_that_transformers_dequantizes(model_directory: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_directory))
    theirs = load_gguf_checkpoint(str(find_gguf()), return_tensors=True, model_to_load=skeleton)["tensors"]
    ours = load_file(model_directory / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name].half()), name


def test_the_special_tokens_are_smollm2s(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.pad_id) == (1, (2,), 2)
    names = [tokenizer.fast.id_to_token(index) for index in range(3)]
    assert names == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert (tokenizer.vocab_size, len(tokenizer.special_ids)) == (49152, 17)


@pytest.mark.parametrize("text", [*SCRIPTS, "", " ", " leading", "trailing ", "a\n\n\n  b\r\n\tc", "don't I'LL 3rd"])
def test_text_survives_the_round_trip_and_gets_no_special_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not tokenizer.special_ids & set(ids)
    detokenizer = Detokenizer(tokenizer)
    assert "".join(detokenizer.push([token]) for token in ids) + detokenizer.finish() == text


@pytest.mark.parametrize("text", [*SCRIPTS, " leading", "a\n\n\n  b", "<|im_start|>user\nhi<|im_end|>\n"])
def test_transformers_loads_the_same_tokenizer(tokenizer: Tokenizer, hf_tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert hf_tokenizer(text)["input_ids"] == ids
    assert hf_tokenizer.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


def test_digits_are_split_one_by_one_and_a_word_has_no_prefix_space(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.fast.encode("Hello 2024 world").tokens
    assert tokens == ["Hello", "Ġ", "2", "0", "2", "4", "Ġworld"]


def test_the_tokenizer_has_no_normalizer_and_no_post_processor(model_directory: Path) -> None:
    parts = json.loads((model_directory / "tokenizer.json").read_text())
    assert (parts["normalizer"], parts["post_processor"], parts["model"]["byte_fallback"]) == (None, None, False)


def test_the_chat_template_is_the_models_own(model_directory: Path, tokenizer: Tokenizer, hf_tokenizer) -> None:
    prompt = ChatTemplate.load(model_directory).render(QUESTION)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.encode(prompt) == hf_tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)


def test_a_system_message_replaces_the_default_one(model_directory: Path, hf_tokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, *QUESTION]
    prompt = ChatTemplate.load(model_directory).render(messages, add_generation_prompt=False)
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert prompt == hf_tokenizer.apply_chat_template(messages, tokenize=False)


def test_the_model_knows_the_capital_of_france_and_ends_its_turn(model_directory: Path, tokenizer: Tokenizer) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_directory, dtype=torch.float32)

    def greedy(prompt: str, tokens: int) -> list[int]:
        ids = torch.tensor([tokenizer.encode(prompt)])
        return model.generate(ids, max_new_tokens=tokens, do_sample=False)[0, ids.shape[1] :].tolist()

    assert tokenizer.decode(greedy("The capital of France is", 2)) == " Paris."
    answer = greedy(ChatTemplate.load(model_directory).render(QUESTION), 40)
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_ids[0]


def test_it_is_looked_at_as_a_gguf_before_anything_is_done(tmp_path: Path) -> None:
    assert "9 attention heads" in refusal("bundled:smollm2-135m-instruct", tmp_path, tp_size=2).message
