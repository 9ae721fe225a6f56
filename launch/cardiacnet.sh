#!/usr/bin/env bash
# CardiacNet at the published size, from raw files to the report: launch/cardiacnet.sh /path/to/CardiacNet
# Run again, it continues or says that it is done. launch/echodream_published.sh is what it is compared with.
set -euo pipefail
raw=$(realpath "${1:?say where CardiacNet lies: launch/cardiacnet.sh /path/to/CardiacNet}")
cd "$(dirname "$0")/.."
source launch/progress.sh
study="data=cardiacnet experiment=cardiacnet"

python sample.py stage=ingest     $study raw="$raw"
python sample.py stage=verify     $study
python sample.py stage=keyframes  $study                            # end diastole and end systole, from the pixels
python train.py  model=vae        $study
python sample.py stage=encode     $study
python train.py  model=lidm       $study view=triplet               # end diastole, end systole, end diastole
python train.py  model=reid       $study
python sample.py stage=image      $study                            # 2,000 of them
python sample.py stage=filter     $study
python sample.py stage=audit      $study
python train.py  model=lvdm       $study
python sample.py stage=video      $study                            # 655 of 192 frames
python sample.py stage=filter     $study on=video
python sample.py stage=audit      $study on=video
python sample.py stage=decode     $study
python sample.py stage=decode     $study on=image
python train.py  model=classifier $study
python train.py  model=classifier $study train_on=synthetic
python train.py  model=classifier $study train_on=both
python sample.py stage=utility    $study

# Two tasks as published: five folds of the real patients, and synthetic videos that models of real ones label anew.
python train.py  model=classifier $study task.classes='[ASD,Non-ASD]' folds=5 dst='${paths.models}/cardiacnet/asd_folds'
python train.py  model=classifier $study task.classes='[PAH,Non-PAH]' folds=5 dst='${paths.models}/cardiacnet/pah_folds'
python train.py  model=classifier $study task.classes='[ASD,Non-ASD]' dst='${paths.models}/cardiacnet/asd'
python train.py  model=classifier $study task.classes='[PAH,Non-PAH]' dst='${paths.models}/cardiacnet/pah'
python sample.py stage=label      $study artifacts='[${paths.models}/cardiacnet/asd,${paths.models}/cardiacnet/pah]'
python train.py  model=classifier $study train_on=both synthetic='${paths.samples}/cardiacnet/videos_relabelled' dst='${paths.models}/cardiacnet/relabelled'

python sample.py stage=evaluate   $study                            # and the report
verdict
