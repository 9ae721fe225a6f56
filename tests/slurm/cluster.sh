#!/usr/bin/env bash
# Start or stop a real SLURM cluster of two nodes on this machine, with slurm-wlm and munge of Debian. As root:
#   tests/slurm/cluster.sh start FOLDER    FOLDER: absolute path for configuration, logs and state
#   tests/slurm/cluster.sh stop FOLDER     stops only the daemons of this cluster
# A requeued job waits for cred_expire: 15 s in this cluster, two minutes by default.
# Usage: SLURM_CONF=FOLDER/slurm.conf sbatch ... (also squeue, scontrol). Ports start at 27817 (variable PORT).
set -euo pipefail
action="$1" folder="$2" port="${PORT:-27817}"
export SLURM_CONF="$folder/slurm.conf"

configure() {
  mkdir -p "$folder"/{state,n1,n2}
  chmod 755 "$folder"
  (umask 077 && head -c 128 /dev/urandom > "$folder/munge.key")
  touch "$folder"/gpu{0,1,2,3}
  echo "NodeName=n[1-2] Name=gpu File=$folder/gpu[0-3]" > "$folder/gres.conf"
  local size="CPUs=16 RealMemory=256000 Gres=gpu:4"  # SLURM does not check these resources
  cat > "$SLURM_CONF" <<CONF
ClusterName=oneroom
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=15
CredType=cred/munge
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
InactiveLimit=0
MinJobAge=600
SlurmdParameters=config_overrides
GresTypes=gpu
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmdLogFile=$folder/%n/slurmd.log
SlurmdSpoolDir=$folder/%n/spool
StateSaveLocation=$folder/state
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 1)) $size
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 2)) $size
PartitionName=normal Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1 OverSubscribe=NO
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE PriorityTier=2 OverSubscribe=NO
CONF
}

start() {
  configure
  # srun in the jobs of Snakemake has no SLURM_CONF: a link makes the configuration file the default.
  mkdir -p /etc/slurm
  [ -e /etc/slurm/slurm.conf ] || ln -sfn "$SLURM_CONF" /etc/slurm/slurm.conf
  munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
  slurmctld
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 60); do
    [ "$(sinfo --noheader --Node --partition=normal --states=idle | wc -l)" = 2 ] && exit 0
    sleep 0.5
  done
  echo "error: the nodes did not become idle within 30 s: read $folder/*.log and $folder/n1/slurmd.log" >&2
  exit 1
}

stop() {
  [ -f "$SLURM_CONF" ] || return 0
  scancel --full --signal=KILL --state=RUNNING --user=root 2>/dev/null || true
  for _ in $(seq 20); do [ -z "$(squeue --noheader 2>/dev/null)" ] && break; scancel --user=root 2>/dev/null || break; sleep 0.5; done
  [ "$(readlink /etc/slurm/slurm.conf)" != "$SLURM_CONF" ] || rm /etc/slurm/slurm.conf
  local pid
  for pid in "$folder"/n1/slurmd.pid "$folder"/n2/slurmd.pid "$folder/slurmctld.pid" "$folder/munged.pid"; do
    [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
  done
  for _ in $(seq 40); do
    [ -z "$(ls "$folder"/n?/slurmd.pid "$folder/slurmctld.pid" 2>/dev/null)" ] && return 0
    sleep 0.25
  done
}

"$action"
