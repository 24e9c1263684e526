"""The verb that checks a checkpoint by running it: one that was made here, or any directory of one."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.commands import Request, open_context, print_json
from slipstream.pipeline import CHECKPOINT, DRAFT_CHECKPOINT, Context, require
from slipstream.progress import reporting
from slipstream.project import recipes_directory
from slipstream.spec import DraftSpec

if TYPE_CHECKING:
    from slipstream.quantize.speculation import Speculation
    from slipstream.quantize.verify.findings import Verification


def verify(request: Request, model: Path | None) -> bool:
    """Verify what `request.deployment` names, a deployment or a checkpoint directory; whether it is right."""
    directory = Path(request.deployment).expanduser()
    if directory.is_dir():
        return _tell(request, {"": _verify(directory, model or _model_beside(directory))})
    context = open_context(request)
    require(CHECKPOINT, context)
    found = {"": _verify(context.workspace.checkpoint, model or context.workspace.model)}
    draft = context.spec.engine.draft
    if draft is None:
        return _tell(request, found)
    require(DRAFT_CHECKPOINT, context)
    workspace = context.workspace.draft
    found["draft"] = _verify(workspace.checkpoint, workspace.model)
    are_right = all(one.ok for one in found.values())
    return _tell(request, found, _pair(context, draft) if are_right else None)


def _verify(checkpoint: Path, model: Path | None) -> Verification:
    from slipstream.quantize.verify.check import verify_checkpoint

    with reporting("verify") as report:
        return verify_checkpoint(checkpoint, model_dir=model, report=report)


def _model_beside(checkpoint: Path) -> Path | None:
    """The model of a workspace's checkpoint, where the directory is one."""
    model = checkpoint.resolve().parent / "model"
    return model if (model / "config.json").is_file() else None


def _pair(context: Context, draft: DraftSpec) -> Speculation:
    """What only the two checkpoints together show."""
    from slipstream.quantize.recipes import load_recipe
    from slipstream.quantize.speculation import Member, measure_speculation

    recipes = recipes_directory(context.root)
    recipe = load_recipe(context.spec.quantization.recipe, recipes)
    evaluation = recipe.settings.evaluation
    is_plain_text = evaluation is not None and evaluation.text is not None
    text = recipe.evaluation_text if is_plain_text else None
    held_out = text or (recipes.parent / "calibration" / "held_out.txt").read_text(encoding="utf-8")
    target = Member(checkpoint=context.workspace.checkpoint, model=context.workspace.model)
    other = Member(checkpoint=context.workspace.draft.checkpoint, model=context.workspace.draft.model)
    with reporting("draft") as report:
        return measure_speculation(target, other, held_out, draft.max_draft_len, report)


def _tell(request: Request, found: dict[str, Verification], pair: Speculation | None = None) -> bool:
    from slipstream.quantize.speculation import speculation_text
    from slipstream.quantize.verify.text import verification_text

    if request.as_json:
        document = {name: one.as_json() for name, one in found.items()}
        print_json(document.pop("") | document | ({"speculation": asdict(pair)} if pair else {}))
    else:
        for name, one in found.items():
            print(f"{name} {verification_text(one)}" if name else verification_text(one))
        if pair:
            print(speculation_text(pair))
        sys.stdout.flush()
    return all(one.ok for one in found.values())
