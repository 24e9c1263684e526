"""What a recipe's YAML may say: the method with its settings, its texts, and the limits of the accuracy gate."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slipstream.formats import FORMATS, Format, Method
from slipstream.quantize.corpora import CorpusName

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Alpha = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    """A frozen part of a recipe that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TextSource(_Part):
    """Where samples come from: one of a text file, a JSONL file and a corpus of an installed package."""

    text: str | None = Field(None, min_length=1, description="text file, relative to the recipes' parent directory")
    jsonl: str | None = Field(None, min_length=1, description="file of one JSON object per line, relative as `text` is")
    field: str = Field("text", min_length=1, description="key of each JSONL line: a text, or messages of a chat")
    corpus: CorpusName | None = Field(None, description="a corpus that comes with an installed package")
    samples: Count
    tokens_per_sample: Annotated[int, Field(ge=2, le=1_000_000)]

    @model_validator(mode="after")
    def _has_one_source(self) -> TextSource:
        given = [name for name in ("text", "jsonl", "corpus") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of text, jsonl and corpus, found {' and '.join(given) or 'none'}")
        if self.jsonl is None and "field" in self.model_fields_set:
            raise ValueError("field belongs to jsonl, which is not given")
        return self

    @property
    def name(self) -> str:
        """The source as an error names it."""
        return self.text or self.jsonl or f"corpus {self.corpus}"

    @property
    def file(self) -> str | None:
        """The file that is read, relative to the recipes' parent directory; None: a corpus."""
        return self.text or self.jsonl


class Calibration(TextSource):
    """What runs through the model while ModelOpt observes it."""

    seed: int = Field(0, ge=0, description="chooses which stretches of the text are taken")
    chat_template: bool = Field(default=False, description="render each paragraph or JSONL line as a chat")


class Evaluation(TextSource):
    """What the accuracy is measured on, before and after."""

    choices: int = Field(0, ge=0, le=10_000, description="multiple-choice questions asked as well; minutes on a CPU")


class Outliers(_Part):
    """Layers that a static activation scale would ruin are left in 16 bits."""

    ratio: float = Field(ge=1, description="largest token of a layer's input over its median token, from which on")
    max_share: float = Field(0.1, ge=0, le=0.5, description="of the model's linear layers, at most")


class Limits(_Part):
    """What a checkpoint must keep to; one that does not is kept aside."""

    max_perplexity_increase_percent: float | None = Field(None, ge=0, description="on the evaluation text")
    max_kl: float | None = Field(None, ge=0, description="mean KL divergence of next-token distributions, in nats")
    min_top1_agreement: float | None = Field(None, ge=0, le=1, description="share of equal most likely next tokens")
    max_choice_drop_points: float | None = Field(
        None, ge=0, description="percentage points of multiple choice, where the loss is beyond chance"
    )


class RecipeFile(_Part):
    """What a recipe's YAML says."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="equals the file's name without `.yaml`")
    summary: str = Field(min_length=1)
    method: Method = Field(description="how the linear layers are quantized; lm_head and embeddings never are")
    alpha: Alpha | None = Field(None, description="int8_sq: how much of the activations' range moves to the weights")
    alpha_search: tuple[Alpha, ...] | None = Field(
        None,
        min_length=2,
        strict=False,
        description="int8_sq: values to try; the one with the least KL on the calibration text wins",
    )
    group_size: Count | None = Field(None, description="int4_awq, w4a8_awq: inputs that share a scale")
    exclude: tuple[str, ...] = Field(
        (), strict=False, description="patterns of Hugging Face module names that stay in 16 bits"
    )
    exclude_outliers: Outliers | None = Field(None, description="int8_sq: layers that calibration finds, besides")
    calibration: Calibration | None = Field(None, description="none, int8_wo: only for the scales of a KV cache")
    evaluation: Evaluation | None = Field(None, description="none: only with a quantized KV cache")
    limits: Limits = Limits.model_construct()

    @property
    def format(self) -> Format:
        """The method's entry in the table of formats."""
        return FORMATS[self.method]

    @property
    def quant_algo(self) -> str | None:
        """TensorRT-LLM's name of the method; None: not quantized."""
        return self.format.quant_algo

    def inputs(self) -> dict[str, Any]:
        """What a checkpoint depends on, as JSON values: all but the summary."""
        return self.model_dump(mode="json", exclude={"summary"})

    @model_validator(mode="after")
    def _parts_fit_the_method(self) -> RecipeFile:
        for problem in (
            _nothing_for_none(self),
            _alpha_problem(self),
            _group_problem(self),
            _calibration_problem(self),
            _limits_problem(self),
        ):
            if problem is not None:
                raise ValueError(problem)
        return self


def _nothing_for_none(recipe: RecipeFile) -> str | None:
    if recipe.method == "none" and recipe.exclude:
        return "method is none: exclude must be left out, no linear layer is quantized"
    return None


def _alpha_problem(recipe: RecipeFile) -> str | None:
    if recipe.method != "int8_sq":
        settings = {name: getattr(recipe, name) for name in ("alpha", "alpha_search", "exclude_outliers")}
        given = [name for name, value in settings.items() if value is not None]
        return f"method is {recipe.method}: {' and '.join(given)} can be given for int8_sq alone" if given else None
    if (recipe.alpha is None) == (recipe.alpha_search is None):
        return "method is int8_sq: give alpha, or alpha_search to find it"
    return None


def _group_problem(recipe: RecipeFile) -> str | None:
    if recipe.method not in ("int4_awq", "w4a8_awq"):
        return None if recipe.group_size is None else f"method is {recipe.method}: its group size is not chosen"
    allowed = recipe.format.group_sizes
    if recipe.group_size not in allowed:
        return (
            f"method is {recipe.method}: group_size is {recipe.group_size}, TensorRT-LLM has"
            f" {' and '.join(map(str, sorted(allowed)))}"
        )
    return None


def _calibration_problem(recipe: RecipeFile) -> str | None:
    if recipe.format.needs_calibration and recipe.calibration is None:
        return f"method is {recipe.method}: its scales depend on activations, calibration is needed"
    return None


def _limits_problem(recipe: RecipeFile) -> str | None:
    has_limits = any(value is not None for value in recipe.limits.model_dump().values())
    if has_limits and recipe.evaluation is None:
        return "limits are given: they need an evaluation to be measured on"
    if recipe.limits.max_choice_drop_points is not None and not (recipe.evaluation and recipe.evaluation.choices):
        return "limits.max_choice_drop_points is given: it needs evaluation.choices"
    return None
