#!/usr/bin/env bash
# Run the study launch/studies/lung.yaml: 43 lung ultrasound clips.
raw=${1:?give the folder of the clips: launch/lung.sh /path/to/lung_ultrasound_ccby}
exec python "$(dirname "$0")/run.py" lung raw="$raw" "${@:2}"
