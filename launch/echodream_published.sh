#!/usr/bin/env bash
# Echodream on CardiacNet as published, for comparison with launch/cardiacnet.sh:
#   launch/echodream_published.sh /path/to/CardiacNet
# Results are in data/published, models/published, ... A repeated run skips the complete steps.
set -euo pipefail
raw=$(realpath "${1:?give the folder of CardiacNet: launch/echodream_published.sh /path/to/CardiacNet}")
cd "$(dirname "$0")/.."
source launch/progress.sh
study="data=cardiacnet experiment=echodream_published"

python sample.py stage=ingest     $study raw="$raw"
python train.py  model=vae        $study
python sample.py stage=encode     $study
python train.py  model=lidm       $study process=published conditioning=[published]
python train.py  model=reid       $study head=published
python sample.py stage=image      $study                            # 2,000 images
python sample.py stage=filter     $study rule=percentile
python sample.py stage=audit      $study
python train.py  model=lvdm       $study process=published conditioning=[published_reference,published]
python sample.py stage=video      $study                            # 655 videos of 192 frames
python sample.py stage=filter     $study rule=percentile on=video
python sample.py stage=decode     $study
python sample.py stage=decode     $study on=image
python train.py  model=classifier $study
python train.py  model=classifier $study train_on=synthetic
python train.py  model=classifier $study train_on=both
python sample.py stage=utility    $study
python sample.py stage=evaluate   $study                            # evaluation and report
verdict
