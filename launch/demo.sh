#!/usr/bin/env bash
# The phantom study from raw files to the report: launch/demo.sh [demo|smoke]
exec python "$(dirname "$0")/run.py" "${1:-demo}" "${@:2}"
