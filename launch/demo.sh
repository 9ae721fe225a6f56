#!/usr/bin/env bash
# The pipeline on the embedded phantom study, as far as it goes today. Run again, it continues or says that it is done.
set -euo pipefail
cd "$(dirname "$0")/.."

python sample.py stage=phantom data=phantom experiment=demo                       # raw files, as a hospital has them
python sample.py stage=ingest  data=cardiacnet data.name=phantom raw=raw/phantom experiment=demo
python sample.py stage=verify  data=phantom
python train.py  model=vae     data=phantom experiment=demo
python sample.py stage=encode  data=phantom experiment=demo
python sample.py stage=decode  data=phantom experiment=demo src=data/phantom/latents
