#!/usr/bin/env bash
# Run the study launch/studies/echonet.yaml: EchoNet-Dynamic or EchoNet-Pediatric, networks of the published size.
raw=${2:?give a study and its folder: launch/echonet.sh echonet_dynamic /path/to/EchoNet-Dynamic}
exec python "$(dirname "$0")/run.py" echonet data="$1" raw="$raw" "${@:3}"
