#!/usr/bin/env bash
# EchoNet-Dynamic or EchoNet-Pediatric at the published size, from raw files to the report: launch/echonet.sh <study>
# /path/to/raw, the study being echonet_dynamic, echonet_pediatric_a4c or echonet_pediatric_psax.
# Run again, it continues or says that it is done. launch/echonet_synthetic_published.sh is what it is compared with.
set -euo pipefail
raw=$(realpath "${2:?say which study, and where it lies: launch/echonet.sh echonet_dynamic /path/to/EchoNet-Dynamic}")
cd "$(dirname "$0")/.."
source launch/progress.sh
study="data=$1 experiment=echonet"

python sample.py stage=ingest     $study raw="$raw"
python sample.py stage=verify     $study
python sample.py stage=keyframes  $study                            # every beat: tracings mark one alone
python train.py  model=vae        $study
python sample.py stage=encode     $study
python train.py  model=lidm       $study conditioning=[EF] view=triplet
python train.py  model=reid       $study
python sample.py stage=image      $study                            # 12,000 of them
python sample.py stage=filter     $study
python sample.py stage=audit      $study
python train.py  model=lvdm       $study conditioning=[reference,EF]
python sample.py stage=video      $study                            # of each image that passed, 192 frames
python sample.py stage=filter     $study on=video
python sample.py stage=audit      $study on=video
python sample.py stage=decode     $study
python sample.py stage=decode     $study on=image
python train.py  model=classifier $study task=regression            # reads the ejection fraction
python train.py  model=classifier $study task=regression train_on=synthetic
python train.py  model=classifier $study task=regression train_on=both
python sample.py stage=utility    $study
python sample.py stage=evaluate   $study                            # and the report
verdict
