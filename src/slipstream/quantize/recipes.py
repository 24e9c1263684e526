"""Quantization recipes: `quantize/recipes/NAME.yaml`, read into frozen values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slipstream.errors import SpecError
from slipstream.spec_file import did_you_mean

Count = Annotated[int, Field(ge=1, le=1_000_000)]


class _Part(BaseModel):
    """A frozen part of a recipe that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WeightFormat(_Part):
    """How the weights of the linear layers are stored; lm_head and embeddings keep the model's type."""

    bits: Literal[8]
    group_size: Count | None = Field(None, description="inputs that share a scale; null: one scale per output row")


class Calibration(_Part):
    """The text that runs through the model while ModelOpt observes it."""

    text: str = Field(min_length=1, description="file, relative to the recipes' parent directory")
    samples: Count
    tokens_per_sample: Count
    seed: int = Field(0, ge=0, description="chooses which stretches of the text are taken")


class Evaluation(_Part):
    """The text on which perplexity is measured before and after."""

    text: str = Field(min_length=1, description="file, relative to the recipes' parent directory")
    samples: Count
    tokens_per_sample: Annotated[int, Field(ge=2, le=1_000_000)]


class RecipeFile(_Part):
    """What a recipe's YAML says."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="equals the file's name without `.yaml`")
    summary: str = Field(min_length=1)
    algorithm: Literal["max"] | None = Field(None, description="ModelOpt's calibration algorithm; null: none is run")
    quant_algo: Literal["W8A16"] | None = Field(None, description="TensorRT-LLM's name; null: not quantized")
    weights: WeightFormat | None = None
    calibration: Calibration | None = None
    evaluation: Evaluation | None = None

    @model_validator(mode="after")
    def _parts_fit_together(self) -> RecipeFile:
        if self.quant_algo is None:
            if self.weights or self.algorithm or self.calibration or self.evaluation:
                raise ValueError("quant_algo is null: weights, algorithm, calibration and evaluation must be too")
        elif not (self.weights and self.algorithm and self.evaluation):
            raise ValueError(f"quant_algo is {self.quant_algo}: it needs weights, algorithm and evaluation")
        elif self.weights.group_size is not None:
            raise ValueError(f"quant_algo is {self.quant_algo}: it has one scale per row, group_size must be null")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe with the texts that it names."""

    settings: RecipeFile
    calibration_text: str | None
    evaluation_text: str | None

    @property
    def name(self) -> str:
        return self.settings.name

    def inputs(self) -> dict[str, Any]:
        """Everything that the checkpoint depends on, as JSON values: the settings and the digests of the texts."""
        return {
            **self.settings.model_dump(),
            "calibration_text_sha256": _sha256(self.calibration_text),
            "evaluation_text_sha256": _sha256(self.evaluation_text),
        }


def load_recipe(name: str, recipes_directory: Path) -> Recipe:
    """Read the recipe `name` and its texts; an unknown name is answered with those present."""
    known = recipe_names(recipes_directory)
    if name not in known:
        raise SpecError(
            f"quantization.recipe: there is no recipe {name!r}{did_you_mean(name, known)}",
            mend=f"name one of: {', '.join(known) or f'none, {recipes_directory} is empty'}",
        )
    settings = _read(recipes_directory / f"{name}.yaml")
    texts = recipes_directory.parent
    return Recipe(
        settings=settings,
        calibration_text=_text(texts, settings.calibration),
        evaluation_text=_text(texts, settings.evaluation),
    )


def recipe_names(recipes_directory: Path) -> list[str]:
    """The recipes present, sorted."""
    return sorted(path.stem for path in recipes_directory.glob("*.yaml"))


def _read(path: Path) -> RecipeFile:
    try:
        recipe = RecipeFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "recipe"
        raise SpecError(f"{path}: {field}: {first['msg']}", mend="compare with another recipe beside it") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: cannot be read: {error}", mend="make it a readable YAML file") from error
    if recipe.name != path.stem:
        raise SpecError(f"{path}: name is {recipe.name!r}", mend=f"set name: {path.stem}, or rename the file")
    return recipe


def _text(directory: Path, part: Calibration | Evaluation | None) -> str | None:
    if part is None:
        return None
    path = directory / part.text
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: the recipe's text cannot be read: {error}", mend="make it a UTF-8 file") from error


def _sha256(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()
