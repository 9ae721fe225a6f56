#!/usr/bin/env bash
# Run the study launch/studies/echodream_published.yaml: CardiacNet with the published Echodream method.
raw=${1:?give the folder of CardiacNet: launch/echodream_published.sh /path/to/CardiacNet}
exec python "$(dirname "$0")/run.py" echodream_published raw="$raw" "${@:2}"
