#!/usr/bin/env bash
# Run the study launch/studies/chest.yaml: anonymity and utility of anonymized chest X-rays.
raw=${1:?give the folder of the X-rays: launch/chest.sh /path/to/chest_xray_ccby}
exec python "$(dirname "$0")/run.py" chest raw="$raw" "${@:2}"
