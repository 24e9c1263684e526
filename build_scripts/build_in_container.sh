#!/usr/bin/env bash
# In the image of docker/Dockerfile.build: makes what is due of a deployment's artifacts, from checkpoint to repository.
# build_in_container DEPLOYMENT [VERB …]: all of quantize, build and render, or those named.
set -euo pipefail
deployment=${1:?"name a deployment: build_in_container DEPLOYMENT [quantize|build|render …]"}
shift
verbs=("$@")
[ "${#verbs[@]}" -gt 0 ] || verbs=(quantize build render)
models=${MODELS:-/models}

if [ ! -w "$models" ]; then
  echo "$models is not writable by user $(id -u): give the mounted directory to it, or set SLIPSTREAM_UID" >&2
  exit 1
fi
for verb in "${verbs[@]}"; do
  slipstream "$verb" "$deployment" --out "$models/$deployment"
done
