#!/usr/bin/env python3
"""Quantize a deployment's model: `python quantize/quantize.py DEPLOYMENT [--set KEY=VALUE]…`.

The same as `slipstream quantize`; see quantize/README.md for the recipes.
"""

import sys

from slipstream.cli import main

if __name__ == "__main__":
    main(["quantize", *sys.argv[1:]])
