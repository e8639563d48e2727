#!/bin/bash
# Trains on all hosts of a Cloud TPU slice, one process a host: bash examples/tpu_vm.sh
# Needs gcloud with a project that has TPU quota. The prepared set and the run lie on a disk that all
# hosts mount at /mnt/ast (Filestore or a read-write Hyperdisk); `ast-jax prepare` makes the set.
set -euo pipefail
NAME=${NAME:-ast} ZONE=${ZONE:-us-central1-a} TYPE=${TYPE:-v5litepod-16}
VERSION=${VERSION:-v2-alpha-tpuv5-lite} REPOSITORY=${REPOSITORY:?the URL of a clone of ast_jax}

everywhere() {
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" \
    --version="$VERSION"
everywhere "git clone $REPOSITORY ast_jax && python3 -m venv ast_jax/.venv &&
    ast_jax/.venv/bin/pip install -e './ast_jax[tpu]'"
# The same command again resumes the run.
everywhere "cd ast_jax && JAX_COMPILATION_CACHE_DIR=/mnt/ast/compiled .venv/bin/python train.py \
    --config=configs/audioset_full.py --config.data.dir=/mnt/ast/prepared \
    --config.workdir=/mnt/ast/runs/audioset --config.batch_size=192 \
    --config.model.dtype=bfloat16 --config.frontend.on_device=True --config.data.workers=4 \
    --distributed"
