#!/usr/bin/env bash
# Run the study launch/studies/echonet_synthetic_published.yaml: the published EchoNet-Synthetic method.
raw=${2:?give a study and its folder: launch/echonet_synthetic_published.sh echonet_dynamic /path}
exec python "$(dirname "$0")/run.py" echonet_synthetic_published data="$1" raw="$raw" "${@:3}"
