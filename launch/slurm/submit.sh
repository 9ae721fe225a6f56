#!/usr/bin/env bash
# Submits each line of a launch script as a SLURM job that starts when the previous job has succeeded:
#   launch/slurm/submit.sh launch/cardiacnet.sh /path/to/CardiacNet
# The resources of each model and stage are in resources.sh.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
PREVIOUS="$(mktemp)" REAL_PATH="$PATH"
export PREVIOUS REAL_PATH
trap 'rm -f "$PREVIOUS"' EXIT
JOBS=1 PATH="$here/bin:$PATH" bash "$@"
