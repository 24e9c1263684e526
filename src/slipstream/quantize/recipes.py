"""Quantization recipes: `quantize/recipes/NAME.yaml`, read into frozen values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slipstream.errors import SpecError
from slipstream.formats import refused_name
from slipstream.quantize.corpora import PACKAGE
from slipstream.quantize.recipe_schema import Calibration, Evaluation, Limits, RecipeFile, TextSource
from slipstream.spec_file import did_you_mean, read_yaml

__all__ = ["Calibration", "Evaluation", "Limits", "Recipe", "RecipeFile", "load_recipe", "recipe_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe with the files that it names, as they are on disk; None where it names none or a packaged corpus."""

    settings: RecipeFile
    calibration_text: str | None
    evaluation_text: str | None

    @property
    def name(self) -> str:
        return self.settings.name

    def inputs(self) -> dict[str, Any]:
        """Everything that the checkpoint depends on, as JSON values: settings, digests of texts, version of corpora."""
        parts = (self.settings.calibration, self.settings.evaluation)
        return {
            **self.settings.inputs(),
            "calibration_text_sha256": _sha256(self.calibration_text),
            "evaluation_text_sha256": _sha256(self.evaluation_text),
            "corpus_package": _corpus_package() if any(part and part.corpus for part in parts) else None,
        }


def load_recipe(name: str, recipes_directory: Path) -> Recipe:
    """Read the recipe `name` and its texts; an unknown name is answered with the nearest recipe."""
    known = recipe_names(recipes_directory)
    if name not in known:
        raise _unknown(name, known, recipes_directory)
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


def _unknown(name: str, known: list[str], directory: Path) -> SpecError:
    refusal = refused_name(name)
    if refusal is not None:
        return SpecError(f"quantization.recipe: {name!r} is no recipe: {refusal.reason}", mend=refusal.mend)
    return SpecError(
        f"quantization.recipe: there is no recipe {name!r}{did_you_mean(name, known)}",
        mend=f"name one of: {', '.join(known) or f'none, {directory} is empty'}",
    )


def _read(path: Path) -> RecipeFile:
    try:
        recipe = RecipeFile.model_validate(read_yaml(str(path), path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "recipe"
        raise SpecError(f"{path}: {field}: {first['msg']}", mend="compare with another recipe beside it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}", mend="make it a readable YAML file") from error
    if recipe.name != path.stem:
        raise SpecError(f"{path}: name is {recipe.name!r}", mend=f"set name: {path.stem}, or rename the file")
    return recipe


def _text(directory: Path, source: TextSource | None) -> str | None:
    if source is None or source.file is None:
        return None
    path = directory / source.file
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise SpecError(f"{path}: the recipe's text cannot be read: {error}", mend="make it a UTF-8 file") from error


def _sha256(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _corpus_package() -> str | None:
    try:
        return f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:
        return None
