#!/usr/bin/env bash
# Resolves pyproject.toml in fresh environments and writes requirements/run.txt, dev.txt and serve.txt.
# torch's local version (+cpu) is dropped: pip takes the CPU build where one is offered to it.
set -euo pipefail
python=${1:-python3.11}
root=$(cd "$(dirname "$0")/.." && pwd)
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"$python" -m venv "$environment"
pip=("$environment/bin/python" -m pip --disable-pip-version-check)

freeze() { "${pip[@]}" freeze --exclude slipstream | sed -E 's/\+cpu$//' | LC_ALL=C sort -f; }
header="# Written by build_scripts/lock.sh ($("$python" --version)); do not edit."

"${pip[@]}" install --quiet hatchling==1.33.0 editables==0.6 "$root[cpu,quantize]"
{ echo "$header"; freeze; } > "$root/requirements/run.txt"
"${pip[@]}" install --quiet --requirement "$root/requirements/run.txt" "$root[dev]"
{ echo "$header"; echo "-r run.txt"; freeze | grep -vxFf "$root/requirements/run.txt"; } > "$root/requirements/dev.txt"

# What Slipstream itself needs, without quantizing and the embedded target: for the Triton image, in versions of run.txt.
"$python" -m venv --clear "$environment"
"${pip[@]}" install --quiet --constraint "$root/requirements/run.txt" "$root"
{ echo "$header"; freeze; } > "$root/requirements/serve.txt"
