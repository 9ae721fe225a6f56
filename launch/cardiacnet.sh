#!/usr/bin/env bash
# Run the study launch/studies/cardiacnet.yaml: CardiacNet with networks of the published size.
raw=${1:?give the folder of CardiacNet: launch/cardiacnet.sh /path/to/CardiacNet}
exec python "$(dirname "$0")/run.py" cardiacnet raw="$raw" "${@:2}"
