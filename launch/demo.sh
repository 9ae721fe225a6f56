#!/usr/bin/env bash
# The pipeline on the embedded phantom study, from raw files to the report. Run again, it continues or says that it is done.
set -euo pipefail
cd "$(dirname "$0")/.."

python sample.py stage=phantom data=phantom experiment=demo                       # raw files, as a hospital has them
python sample.py stage=ingest  data=cardiacnet data.name=phantom raw=raw/phantom experiment=demo
python sample.py stage=verify  data=phantom
python train.py  model=vae     data=phantom experiment=demo
python sample.py stage=encode  data=phantom experiment=demo
python train.py  model=lidm    data=phantom experiment=demo view=triplet          # end diastole, end systole, end diastole
python train.py  model=reid    data=phantom experiment=demo
python sample.py stage=image   data=phantom experiment=demo n=104 guidance.class_id=1.5
python sample.py stage=filter  data=phantom experiment=demo rule.choose=0
python sample.py stage=audit   data=phantom experiment=demo
python train.py  model=lvdm    data=phantom experiment=demo view.reference=keyframes view.references=3
python sample.py stage=video   data=phantom experiment=demo n=52 frames=64
python sample.py stage=filter  data=phantom experiment=demo on=video check_every=16 rule.choose=0
python sample.py stage=decode  data=phantom experiment=demo
python sample.py stage=decode  data=phantom experiment=demo src=samples/phantom/private dst=samples/phantom/image_frames
python train.py  model=classifier data=phantom experiment=demo
python train.py  model=classifier data=phantom experiment=demo train_on=synthetic
python train.py  model=classifier data=phantom experiment=demo train_on=both
python sample.py stage=utility data=phantom experiment=demo
python sample.py stage=evaluate data=phantom experiment=demo images=samples/phantom/image_frames
