#!/usr/bin/env bash
# The whole pipeline on 43 real lung ultrasound clips: launch/lung.sh /path/to/lung_ultrasound_ccby
# Thirteen patients are few: docs/results/lung.md says how far they carry.
set -euo pipefail
raw=$(realpath "${1:?say where the clips lie: launch/lung.sh /path/to/lung_ultrasound_ccby}")
cd "$(dirname "$0")/.."
source launch/progress.sh

python sample.py stage=ingest     data=lung experiment=lung_demo raw="$raw"
python sample.py stage=verify     data=lung experiment=lung_demo
python train.py  model=vae        data=lung experiment=lung_demo
python sample.py stage=encode     data=lung experiment=lung_demo
beside python train.py  model=reid       data=lung experiment=lung_demo
beside python train.py  model=lvdm       data=lung experiment=lung_demo
beside python train.py  model=classifier data=lung experiment=lung_demo
python train.py  model=lidm       data=lung experiment=lung_demo
python sample.py stage=image      data=lung experiment=lung_demo
meet
python sample.py stage=filter     data=lung experiment=lung_demo rule.choose=0 rule.alpha=0.34 rule.alpha_max=0.67 rule.beta=0.3   # the least that nine patients and two new ones allow
beside python sample.py stage=audit      data=lung experiment=lung_demo
python sample.py stage=decode     data=lung experiment=lung_demo on=image
meet
python sample.py stage=video      data=lung experiment=lung_demo
python sample.py stage=filter     data=lung experiment=lung_demo on=video rule.choose=0 rule.alpha=0.34 rule.alpha_max=0.67 rule.beta=0.45   # one of nine copies that passes is allowed for
beside python sample.py stage=audit      data=lung experiment=lung_demo on=video
python sample.py stage=decode     data=lung experiment=lung_demo
beside python train.py  model=classifier data=lung experiment=lung_demo train_on=synthetic
python train.py  model=classifier data=lung experiment=lung_demo train_on=both
meet
python sample.py stage=utility    data=lung experiment=lung_demo
python sample.py stage=evaluate   data=lung experiment=lung_demo

verdict
