#!/usr/bin/env bash
# Anonymity and utility of anonymized chest X-rays: launch/chest.sh /path/to/chest_xray_ccby
# The script compares two methods: a strong blur, and SDEdit (partial noising and denoising) at noise level 0.5. See docs/chest.md.
set -euo pipefail
raw=$(realpath "${1:?give the folder of the X-rays: launch/chest.sh /path/to/chest_xray_ccby}")
cd "$(dirname "$0")/.."
source launch/progress.sh

python sample.py stage=ingest      data=chest_xray experiment=chest raw="$raw"
python sample.py stage=verify      data=chest_xray
python train.py  model=identity    data=chest_xray experiment=chest
python train.py  model=vae         data=chest_xray experiment=chest
python sample.py stage=encode      data=chest_xray experiment=chest
python train.py  model=lidm        data=chest_xray experiment=chest
python sample.py stage=anonymise   data=chest_xray method=blur dst=samples/chest_xray/blurred
python sample.py stage=anonymise   data=chest_xray strength=0.5 dst=samples/chest_xray/redrawn
python sample.py stage=pairs       data=chest_xray
python sample.py stage=linkability data=chest_xray src=samples/chest_xray/blurred artifact=models/chest_xray/identity far=0.05 dst=reports/chest_xray/blurred
python sample.py stage=linkability data=chest_xray src=samples/chest_xray/redrawn artifact=models/chest_xray/identity far=0.05 dst=reports/chest_xray/redrawn
python sample.py stage=anonymity   data=chest_xray src=samples/chest_xray/blurred artifact=models/chest_xray/identity dst=reports/chest_xray/blurred
python sample.py stage=anonymity   data=chest_xray src=samples/chest_xray/redrawn artifact=models/chest_xray/identity dst=reports/chest_xray/redrawn
python sample.py stage=decode      data=chest_xray src=samples/chest_xray/blurred dst=samples/chest_xray/blurred_pixels
python sample.py stage=decode      data=chest_xray src=samples/chest_xray/redrawn dst=samples/chest_xray/redrawn_pixels
python train.py  model=utility     data=chest_xray experiment=chest task.labels=[PA,Male] anonymised=[samples/chest_xray/blurred_pixels,samples/chest_xray/redrawn_pixels]
python train.py  model=utility     data=chest_xray experiment=chest task.labels=[PA,Male] train_on=anonymised anonymised=samples/chest_xray/blurred_pixels dst=models/chest_xray/utility_blurred
python train.py  model=utility     data=chest_xray experiment=chest task.labels=[PA,Male] train_on=anonymised anonymised=samples/chest_xray/redrawn_pixels dst=models/chest_xray/utility_redrawn
