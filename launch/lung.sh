#!/usr/bin/env bash
# The pipeline on 43 lung ultrasound clips of 13 patients: launch/lung.sh /path/to/lung_ultrasound_ccby
# docs/results/lung.md has results and their limits. A repeated run skips the complete steps.
set -euo pipefail
raw=$(realpath "${1:?give the folder of the clips: launch/lung.sh /path/to/lung_ultrasound_ccby}")
cd "$(dirname "$0")/.."
source launch/progress.sh

python sample.py stage=ingest     data=lung experiment=lung_demo raw="$raw"
python sample.py stage=verify     data=lung experiment=lung_demo
python train.py  model=vae        data=lung experiment=lung_demo
python sample.py stage=encode     data=lung experiment=lung_demo
parallel python train.py  model=reid       data=lung experiment=lung_demo
parallel python train.py  model=lvdm       data=lung experiment=lung_demo
parallel python train.py  model=classifier data=lung experiment=lung_demo
python train.py  model=lidm       data=lung experiment=lung_demo
python sample.py stage=image      data=lung experiment=lung_demo
wait_parallel
python sample.py stage=filter     data=lung experiment=lung_demo rule.choose=0 rule.alpha=0.34 rule.alpha_max=0.67 rule.beta=0.3   # the lowest error rates possible with nine training and two calibration patients
parallel python sample.py stage=audit      data=lung experiment=lung_demo
python sample.py stage=decode     data=lung experiment=lung_demo on=image
wait_parallel
python sample.py stage=video      data=lung experiment=lung_demo
python sample.py stage=filter     data=lung experiment=lung_demo on=video rule.choose=0 rule.alpha=0.34 rule.alpha_max=0.67 rule.beta=0.45   # beta 0.45 allows one of nine copies to pass
parallel python sample.py stage=audit      data=lung experiment=lung_demo on=video
python sample.py stage=decode     data=lung experiment=lung_demo
parallel python train.py  model=classifier data=lung experiment=lung_demo train_on=synthetic
python train.py  model=classifier data=lung experiment=lung_demo train_on=both
wait_parallel
python sample.py stage=utility    data=lung experiment=lung_demo
python sample.py stage=evaluate   data=lung experiment=lung_demo

verdict
