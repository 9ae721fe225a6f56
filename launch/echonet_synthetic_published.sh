#!/usr/bin/env bash
# EchoNet-Synthetic as published, to compare with launch/echonet.sh: launch/echonet_synthetic_published.sh <study>
# /path/to/raw. Its results lie in data/published, models/published, ... Run again, it continues.
set -euo pipefail
raw=$(realpath "${2:?say which study, and where it lies: launch/echonet_synthetic_published.sh echonet_dynamic /path}")
cd "$(dirname "$0")/.."
source launch/progress.sh
study="data=$1 experiment=echonet_synthetic_published"

python sample.py stage=ingest     $study raw="$raw"
python train.py  model=vae        $study
python sample.py stage=encode     $study
python train.py  model=lidm       $study process=published conditioning=[published_EF]
python train.py  model=reid       $study head=published
python sample.py stage=image      $study                            # 12,000 of them
python sample.py stage=filter     $study rule=percentile
python sample.py stage=audit      $study
python train.py  model=lvdm       $study process=published conditioning=[published_reference,published_EF]
python sample.py stage=video      $study                            # of each image that passed, 192 frames
python sample.py stage=filter     $study rule=percentile on=video
python sample.py stage=decode     $study
python sample.py stage=decode     $study on=image
python train.py  model=classifier $study task=regression            # reads the ejection fraction
python train.py  model=classifier $study task=regression train_on=synthetic
python train.py  model=classifier $study task=regression train_on=both
python sample.py stage=utility    $study
python sample.py stage=evaluate   $study                            # and the report
verdict
