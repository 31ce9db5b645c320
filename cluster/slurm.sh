#!/bin/sh
#SBATCH --job-name=hyfree-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=48:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
# Pre-empted or out of time, the job is requeued and goes on from the store.
set -eu
. "${HYFREE_VENV:-$HOME/hyfree-ray/.venv}/bin/activate"
: "${HYFREE_STORE:=$SCRATCH/hyfree-store}"
export HYFREE_STORE RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=6379
# Starts Ray on every node of the job, runs the command on the first, and stops Ray after it.
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  hyfree-ray simulate --ray "$head:$port" "$@"
