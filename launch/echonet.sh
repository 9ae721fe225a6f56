#!/usr/bin/env bash
# EchoNet-Dynamic or EchoNet-Pediatric at the published size, from raw files to the report:
#   launch/echonet.sh <study> /path/to/raw
# <study>: echonet_dynamic | echonet_pediatric_a4c | echonet_pediatric_psax
# A repeated run skips the complete steps. Compare with launch/echonet_synthetic_published.sh.
set -euo pipefail
raw=$(realpath "${2:?give a study and its folder: launch/echonet.sh echonet_dynamic /path/to/EchoNet-Dynamic}")
cd "$(dirname "$0")/.."
source launch/progress.sh
study="data=$1 experiment=echonet"

python sample.py stage=ingest     $study raw="$raw"
python sample.py stage=verify     $study
python sample.py stage=keyframes  $study                            # key frames of all beats; the tracings have only one beat
python train.py  model=vae        $study
python sample.py stage=encode     $study
python train.py  model=lidm       $study conditioning=[EF] view=triplet
python train.py  model=reid       $study
python sample.py stage=image      $study                            # 12,000 images
python sample.py stage=filter     $study
python sample.py stage=audit      $study
python train.py  model=lvdm       $study conditioning=[reference,EF]
python sample.py stage=video      $study                            # one video of 192 frames per image that passed
python sample.py stage=filter     $study on=video
python sample.py stage=audit      $study on=video
python sample.py stage=decode     $study
python sample.py stage=decode     $study on=image
python train.py  model=classifier $study task=regression            # predicts the ejection fraction
python train.py  model=classifier $study task=regression train_on=synthetic
python train.py  model=classifier $study task=regression train_on=both
python sample.py stage=utility    $study
python sample.py stage=evaluate   $study                            # evaluation and report
verdict
