#!/usr/bin/env bash
# The pipeline on the phantom, from raw files to the report: launch/demo.sh [demo|smoke]
# A repeated run skips the complete steps.
set -euo pipefail
cd "$(dirname "$0")/.."
experiment=${1:-demo}
case $experiment in smoke) patients=36 ;; *) patients=372 ;; esac   # patients of the study, and 12 or 200 further test patients
source launch/progress.sh

python sample.py stage=phantom    data=phantom dst="raw/$experiment" experiment="$experiment" data.source.severity=0.5   # raw files in the layout of CardiacNet
python sample.py stage=ingest     data=cardiacnet data.name="${experiment/demo/phantom}" raw="raw/$experiment" experiment="$experiment"
python sample.py stage=verify     data=phantom experiment="$experiment"
python train.py  model=vae        data=phantom experiment="$experiment"
python sample.py stage=encode     data=phantom experiment="$experiment"
parallel python sample.py stage=ingest     data=phantom data.name="${experiment/demo/phantom}_further" data.source.patients="$patients" data.source.severity=0.5 experiment="$experiment"
parallel python train.py  model=reid       data=phantom experiment="$experiment"
parallel python train.py  model=lvdm       data=phantom experiment="$experiment"
parallel python train.py  model=classifier data=phantom experiment="$experiment"
python train.py  model=lidm       data=phantom experiment="$experiment" view=triplet   # key frames: end diastole, end systole, end diastole
python sample.py stage=image      data=phantom experiment="$experiment"
wait_parallel
python sample.py stage=filter     data=phantom experiment="$experiment"
parallel python sample.py stage=audit      data=phantom experiment="$experiment"
python sample.py stage=decode     data=phantom experiment="$experiment" on=image
wait_parallel
python sample.py stage=video      data=phantom experiment="$experiment"
python sample.py stage=filter     data=phantom experiment="$experiment" on=video
parallel python sample.py stage=audit      data=phantom experiment="$experiment" on=video
python sample.py stage=decode     data=phantom experiment="$experiment"
parallel python train.py  model=classifier data=phantom experiment="$experiment" train_on=synthetic
python train.py  model=classifier data=phantom experiment="$experiment" train_on=both
wait_parallel
python sample.py stage=utility    data=phantom experiment="$experiment"
python sample.py stage=evaluate   data=phantom experiment="$experiment"

verdict
