#!/usr/bin/env bash
# EchoNet-Dynamic or EchoNet-Pediatric at the published size: launch/studies/echonet.yaml
raw=${2:?give a study and its folder: launch/echonet.sh echonet_dynamic /path/to/EchoNet-Dynamic}
exec python "$(dirname "$0")/run.py" echonet data="$1" raw="$raw" "${@:3}"
