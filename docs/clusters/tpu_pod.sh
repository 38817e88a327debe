#!/bin/bash
# Trains on all hosts of a TPU slice: tpu_pod.sh NAME ZONE BUCKET WHEEL
# BUCKET has records.npz and gets the folder of the run; WHEEL is a wheel of dpjax.
set -euo pipefail
name=$1 zone=$2 bucket=$3 wheel=$4

copy_to_all_hosts() {
    gcloud compute tpus tpu-vm scp "$@" "$name": --zone="$zone" --worker=all
}

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

copy_to_all_hosts train.py "$wheel"
on_all_hosts "pip install '$(basename "$wheel")[tpu]'"
on_all_hosts "gcloud storage cp '$bucket/records.npz' ."
on_all_hosts "python3 train.py records.npz run"
# It is on the host of process 0. Its key is deleted at the end.
on_all_hosts "if [ -e run/params.safetensors ]; then gcloud storage cp -r run '$bucket/'; fi"
