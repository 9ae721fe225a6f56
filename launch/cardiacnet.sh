#!/usr/bin/env bash
# CardiacNet at the published size, from raw files to the report: launch/studies/cardiacnet.yaml
raw=${1:?give the folder of CardiacNet: launch/cardiacnet.sh /path/to/CardiacNet}
exec python "$(dirname "$0")/run.py" cardiacnet raw="$raw" "${@:2}"
