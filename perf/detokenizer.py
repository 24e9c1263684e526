"""Tries a million random token streams on the detokenizer; writes results/detokenizer.json."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from slipstream.perf.detokenizer_streams import try_streams
from slipstream.perf.tokenizer_families import families
from slipstream.text.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "detokenizer.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--model", type=Path, help="a model directory, whose own tokenizer is tried beside the families"
    )
    arguments = parser.parse_args()
    tokenizers = {name: make() for name, make in families().items()}
    if arguments.model is not None:
        tokenizers["the model's own"] = Tokenizer.load(arguments.model)
    result = try_streams(
        tokenizers, arguments.streams, arguments.seed, lambda text, _=None: print(text, file=sys.stderr)
    )
    RESULT.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"{RESULT}: {result['failed_streams']} of {result['streams']} streams failed")
    return 1 if result["failed_streams"] else 0


if __name__ == "__main__":
    sys.exit(main())
