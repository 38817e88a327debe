#!/bin/bash
#SBATCH --job-name=dpjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# Submitted again, the run goes on. Its folder has the key until it ends: nobody else may read it.
umask 077
source "$HOME/dpjax/.venv/bin/activate"
srun --kill-on-bad-exit=1 python train.py "$HOME/data/records.npz" "$HOME/runs/first"
