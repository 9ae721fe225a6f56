#!/usr/bin/env bash
# Run a study of the phantom (simulated echocardiograms), from raw files to the report: launch/demo.sh [demo|smoke]
exec python "$(dirname "$0")/run.py" "${1:-demo}" "${@:2}"
