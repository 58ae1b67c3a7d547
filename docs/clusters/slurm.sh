#!/bin/bash
#SBATCH --job-name=train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

# SIGTERM comes to the tasks 120 s before the time is over; they save and end. So they do where a
# job of higher priority takes the nodes, and SLURM itself queues this one again.
srun --distribution=block --kill-on-bad-exit=1 --label python train.py
status=$?
# The time was over, or a worker was lost: go on from the last checkpoint, at most ten times.
if [ $status -ne 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
