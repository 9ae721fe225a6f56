#!/usr/bin/env bash
# EchoNet-Synthetic as published, for comparison with launch/echonet.sh:
#   launch/echonet_synthetic_published.sh <study> /path/to/raw
# Results are in data/published, models/published, ... A repeated run skips the complete steps.
set -euo pipefail
raw=$(realpath "${2:?give a study and its folder: launch/echonet_synthetic_published.sh echonet_dynamic /path}")
cd "$(dirname "$0")/.."
source launch/progress.sh
study="data=$1 experiment=echonet_synthetic_published"

python sample.py stage=ingest     $study raw="$raw"
python train.py  model=vae        $study
python sample.py stage=encode     $study
python train.py  model=lidm       $study process=published conditioning=[]
python train.py  model=reid       $study head=published
python sample.py stage=image      $study                            # 20,000 images
python sample.py stage=filter     $study rule=percentile
python sample.py stage=audit      $study
python train.py  model=lvdm       $study process=published conditioning=[published_reference,published_EF]
python sample.py stage=video      $study                            # one video of 192 frames per image that passed
python sample.py stage=filter     $study rule=percentile on=video
python sample.py stage=decode     $study
python sample.py stage=decode     $study on=image
python train.py  model=classifier $study task=regression            # predicts the ejection fraction
python train.py  model=classifier $study task=regression train_on=synthetic
python train.py  model=classifier $study task=regression train_on=both
python sample.py stage=utility    $study
python sample.py stage=evaluate   $study                            # evaluation and report
verdict
