#!/usr/bin/env bash
# Echodream on CardiacNet as published: launch/studies/echodream_published.yaml
raw=${1:?give the folder of CardiacNet: launch/echodream_published.sh /path/to/CardiacNet}
exec python "$(dirname "$0")/run.py" echodream_published raw="$raw" "${@:2}"
