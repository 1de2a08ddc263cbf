#!/bin/bash
# sbatch accelerate/slurm.sh RECIPE [FIELD=VALUE]... : train on a cluster that takes machines away and gives them back
#
# Two minutes before the time is up, or when the job is pre-empted, Slurm sends SIGUSR1 to this script. The run ends its
# update, writes a checkpoint and leaves with 143; the job is queued again, and goes on with --resume, to the same bytes.
# Change the lines below for your cluster. Needs bash, and scontrol where it runs. The tests run it with a stand-in for
# Slurm; it has not been run on a cluster yet.
#SBATCH --job-name=hfstrat
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# How it is started, from the folder that has accelerate/: one of its files, or what suits your cluster.
LAUNCH="${LAUNCH:-accelerate launch --config_file accelerate/one-gpu.yaml}"

$LAUNCH -m hfstrat train "$@" --resume &
launcher=$!
asked=""
# Launchers hand SIGTERM on to what they have started, and die of SIGUSR1.
trap 'asked=yes; kill -TERM "$launcher" 2>/dev/null' USR1 TERM

wait "$launcher"
code=$?
# A signal ends `wait` before the launcher has ended.
while kill -0 "$launcher" 2>/dev/null; do
    wait "$launcher"
    code=$?
done

if [ -n "$asked" ] && [ "$code" -ne 0 ]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
