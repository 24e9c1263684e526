"""The catalogues of models and GPUs, and how the names that people write are matched with them."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from slipstream.errors import SlipstreamError
from slipstream.plan.formats import WeightFormat
from slipstream.plan.shape import ModelShape, shape_from_config
from slipstream.spec_file import did_you_mean

# Words of a model's name that do not change its shape.
_NOISE = frozenset(
    [
        "instruct",
        "chat",
        "it",
        "hf",
        "base",
        "v",
        "llama3",
        "meta",
        "llama",
        "nvidia",
        "instruct2507",
        "thinking",
        "fp8",
        "fp4",
        "nvfp4",
        "bf16",
        "fp16",
        "awq",
    ]
) - {"llama"}
_VENDORS = r"^(meta-llama|meta|nvidia|mistralai|qwen|microsoft|google|deepseek-ai|moonshotai|openai|tiiuae|eleutherai)/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the catalogue, or one read from a local config.json."""

    name: str
    source: str  # hub id or path
    family: str  # model_type of its config.json
    shape: ModelShape
    published_parameters_b: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of GPU; peaks are dense, link is one direction."""

    name: str
    generation: Literal["ampere", "ada", "hopper", "blackwell"]
    sm: int
    memory_gib: float
    bandwidth_gb_s: float
    bf16_tflops: float
    int8_tops: float
    fp8_tflops: float | None
    fp4_tflops: float | None
    link: Literal["nvlink", "pcie"]
    link_gb_s: float
    gpus_per_node: int
    power_w: float
    price_usd_hour: float | None
    source: str

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gib * 2**30)

    def peak_flops(self, weights: WeightFormat) -> float:
        """Operations a second of the matrix units that multiply `weights`."""
        tera = {"bf16": self.bf16_tflops, "int8": self.int8_tops, "fp8": self.fp8_tflops, "fp4": self.fp4_tflops}
        return 1e12 * (tera[weights.peak] or self.bf16_tflops)


def find_model(text: str) -> Model:
    """The model that `text` names: a hub id, a name as people write it, or the path of a config.json.

    Raises SlipstreamError with the nearest name.
    """
    path = Path(text).expanduser()
    if path.suffix == ".json" or (path / "config.json").is_file():
        return read_model(path if path.suffix == ".json" else path / "config.json")
    model = known_model(text)
    if model is None:
        raise SlipstreamError(
            f"model {text!r} is not in the catalogue{did_you_mean(text, [m.name for m in models()])}",
            mend="name one of `slipstream plan --list`, or give the path of a config.json",
        )
    return model


def known_model(text: str) -> Model | None:
    """The model of the catalogue that `text` names, or None."""
    return _models_by_key().get(model_key(text))


def known_gpu(text: str) -> Gpu | None:
    """The GPU of the catalogue that `text` names, or None."""
    return _gpus_by_key().get(gpu_key(text))


def read_model(path: Path) -> Model:
    """A model from its local config.json."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SlipstreamError(f"{path}: not JSON: {error}", mend="give a Hugging Face config.json") from error
    if not isinstance(config, dict):
        raise SlipstreamError(f"{path}: not a JSON object", mend="give a Hugging Face config.json")
    name = config.get("_name_or_path") or path.parent.name
    family = str(config.get("model_type", ""))
    try:
        shape = shape_from_config(config, str(path))
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise SlipstreamError(
            f"{path}: its dimensions cannot be read: {error!r}", mend="give the config.json of a decoder-only model"
        ) from error
    return Model(name=name, source=str(path.parent), family=family, shape=shape)


def find_gpu(text: str) -> Gpu:
    """The GPU that `text` names. Raises SlipstreamError with the nearest name."""
    gpu = known_gpu(text)
    if gpu is None:
        names = [gpu.name for gpu in gpus()]
        raise SlipstreamError(
            f"GPU {text!r} is not in the catalogue{did_you_mean(text, names)}", mend=f"name one of: {', '.join(names)}"
        )
    return gpu


def models() -> tuple[Model, ...]:
    """All models of the catalogue."""
    return tuple(dict.fromkeys(_models_by_key().values()))


def gpus() -> tuple[Gpu, ...]:
    """All GPUs of the catalogue."""
    return tuple(dict.fromkeys(_gpus_by_key().values()))


def catalogue_data(name: str) -> Any:
    """A YAML file of the package's data."""
    text = (resources.files("slipstream.plan") / "data" / name).read_text(encoding="utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, Loader=loader)  # noqa: S506 - a SafeLoader, in C where libyaml is there


def model_key(text: str) -> str:
    """`LLaMA v3.1 70B`, `meta-llama/Llama-3.1-70B-Instruct` and `Meta-Llama-3.1-70B` have one key."""
    text = re.sub(_VENDORS, "", text.strip().lower())
    text = re.sub(r"\bv?0\.\d\b|\b(2407|2501|2507|0528|0324|\d+k)\b|\(.*?\)", " ", text)
    text = re.sub(r"\b(16e|128e|17b)\b", " ", text) if "llama" in text else text
    text = re.sub(r"(llama|mistral|qwen|gemma|phi|falcon|gpt|deepseek)[\s_-]*v?[\s_-]*(?=[\dj])", r"\1 ", text)
    words = [word for word in re.split(r"[^a-z0-9.]+", text) if word and word not in _NOISE]
    return "".join(re.sub(r"(?<![\d.])v(?=\d)", "", word) for word in words).replace("_", "")


def gpu_key(text: str) -> str:
    """`H100 80GB HBM3`, `h100_sxm` and `NVIDIA H100 SXM5 80GB` have one key."""
    text = re.sub(r"\b(nvidia|geforce|gpus?|tensor core|hbm\d?e?|gddr\d)\b", " ", text.lower().replace("_", " "))
    text = re.sub(r"\bsxm\d\b", "sxm", text).replace(" gb", "gb")
    return "".join(sorted(word for word in re.split(r"[^a-z0-9]+", text) if word))


def _words(*texts: Iterable[str]) -> list[str]:
    return [text for group in texts for text in group]


@functools.cache
def _models_by_key() -> dict[str, Model]:
    found: dict[str, Model] = {}
    for row in catalogue_data("models.yaml")["models"]:
        config = row["config"]
        model = Model(
            name=row["name"],
            source=row["hub"],
            family=config["model_type"],
            shape=shape_from_config(config, row["name"]),
            published_parameters_b=row["parameters_b"],
        )
        for name in _words([row["name"], row["hub"]], row.get("aliases", [])):
            found.setdefault(model_key(name), model)
    return found


@functools.cache
def _gpus_by_key() -> dict[str, Gpu]:
    found: dict[str, Gpu] = {}
    for row in catalogue_data("gpus.yaml")["gpus"]:
        aliases = row.pop("aliases")
        gpu = Gpu(**row)
        for name in [gpu.name, *aliases]:
            found.setdefault(gpu_key(name), gpu)
    return found
