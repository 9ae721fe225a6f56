# Resources of each model and stage, as options of sbatch. bin/python sources this file with the name in $name.
case $name in
  vae | lidm | lvdm) resources="--gpus-per-node=1 --cpus-per-task=8 --mem=64G --time=7-00:00:00" ;;
  reid | classifier | identity) resources="--gpus-per-node=1 --cpus-per-task=8 --mem=32G --time=2-00:00:00" ;;
  encode | image | video | decode) resources="--gpus-per-node=1 --cpus-per-task=8 --mem=32G --time=1-00:00:00" ;;
  filter | audit | evaluate | label | utility) resources="--gpus-per-node=1 --cpus-per-task=8 --mem=64G --time=12:00:00" ;;
  ingest) resources="--cpus-per-task=16 --mem=32G --time=1-00:00:00" ;;
  *) resources="--cpus-per-task=4 --mem=16G --time=08:00:00" ;;
esac
