#!/usr/bin/env bash
# The lines of a launch script as jobs of SLURM, each of which begins when the one before it is done:
#   launch/slurm/submit.sh launch/cardiacnet.sh /path/to/CardiacNet
# A job's resources are in the file of its stage, or of its model, in this folder; or else in stage.sbatch.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
PREVIOUS="$(mktemp)" REAL_PATH="$PATH"
export PREVIOUS REAL_PATH
trap 'rm -f "$PREVIOUS"' EXIT
JOBS=1 PATH="$here/stands_for:$PATH" bash "$@"
