#!/usr/bin/env bash
# CardiacNet at the published size, from raw files to the report: launch/cardiacnet.sh /path/to/CardiacNet
# A repeated run skips the complete steps. Compare with launch/echodream_published.sh.
set -euo pipefail
raw=$(realpath "${1:?give the folder of CardiacNet: launch/cardiacnet.sh /path/to/CardiacNet}")
cd "$(dirname "$0")/.."
source launch/progress.sh
study="data=cardiacnet experiment=cardiacnet"

python sample.py stage=ingest     $study raw="$raw"
python sample.py stage=verify     $study
python sample.py stage=keyframes  $study                            # end diastole and end systole, detected in the pixels
python train.py  model=vae        $study
python sample.py stage=encode     $study
python train.py  model=lidm       $study view=triplet               # key frames: end diastole, end systole, end diastole
python train.py  model=reid       $study
python sample.py stage=image      $study                            # 2,000 images
python sample.py stage=filter     $study
python sample.py stage=audit      $study
python train.py  model=lvdm       $study
python sample.py stage=video      $study                            # 655 videos of 192 frames
python sample.py stage=filter     $study on=video
python sample.py stage=audit      $study on=video
python sample.py stage=decode     $study
python sample.py stage=decode     $study on=image
python train.py  model=classifier $study
python train.py  model=classifier $study train_on=synthetic
python train.py  model=classifier $study train_on=both
python sample.py stage=utility    $study

# The two published tasks: 5-fold cross-validation on real patients, and training on synthetic videos relabeled by classifiers of
# real videos.
python train.py  model=classifier $study task.classes='[ASD,Non-ASD]' folds=5 dst='${paths.models}/cardiacnet/asd_folds'
python train.py  model=classifier $study task.classes='[PAH,Non-PAH]' folds=5 dst='${paths.models}/cardiacnet/pah_folds'
python train.py  model=classifier $study task.classes='[ASD,Non-ASD]' dst='${paths.models}/cardiacnet/asd'
python train.py  model=classifier $study task.classes='[PAH,Non-PAH]' dst='${paths.models}/cardiacnet/pah'
python sample.py stage=label      $study artifacts='[${paths.models}/cardiacnet/asd,${paths.models}/cardiacnet/pah]'
python train.py  model=classifier $study train_on=both synthetic='${paths.samples}/cardiacnet/videos_relabelled' dst='${paths.models}/cardiacnet/relabelled'

python sample.py stage=evaluate   $study                            # evaluation and report
verdict
