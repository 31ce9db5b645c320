#!/bin/sh
#SBATCH --job-name=hyfree-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=48:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Pre-empted, or where a node fails, Slurm itself queues the job again. Where its time is up it does
# not: two minutes before, it tells this script, which does. Either way the job goes on from the store.
set -eu
. "${HYFREE_VENV:-$HOME/hyfree-ray/.venv}/bin/activate"
: "${HYFREE_STORE:=$SCRATCH/hyfree-store}"
export HYFREE_STORE RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
# Where memory runs out Ray ends stages, and no more of them than it has to.
export RAY_max_kill_memory_buffer_bytes=0

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=6379

again() {
  trap '' USR1
  # As Ctrl-C: of SIGTERM `ray symmetric-run` dies at once and leaves its Ray behind. It kills the
  # command a moment later, which loses what came after the last checkpoints.
  scancel --signal=INT "$SLURM_JOB_ID" || kill -TERM "$step" || true
  wait "$step" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 143
}
trap again USR1

# Starts Ray on every node of the job, runs the command on the first, and stops Ray after it.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  hyfree-ray simulate --ray "$head:$port" "$@" &
step=$!
wait "$step"
