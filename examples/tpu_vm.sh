#!/bin/bash
# Trains on all hosts of a Cloud TPU slice, one process a host: bash examples/tpu_vm.sh
# Needs gcloud with a project that has TPU quota, REPOSITORY, the URL of a clone of ast_jax, and
# NFS, a Filestore share (HOST:/SHARE) with the prepared set and initial weights of docs/recipes.md.
# The same command again resumes the run. Where the connection may be lost, run it in tmux.
set -euo pipefail
NAME=${NAME:-ast} ZONE=${ZONE:-us-central1-a} TYPE=${TYPE:-v5litepod-16}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}

everywhere() {
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

gcloud compute tpus tpu-vm describe "$NAME" --zone="$ZONE" > /dev/null 2>&1 ||
    gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" \
        --version="$VERSION"
everywhere "sudo mkdir -p /mnt/ast &&
    { mountpoint -q /mnt/ast || sudo mount -t nfs ${NFS:?} /mnt/ast; }"
# The image's Python is older than 3.11; uv brings one.
everywhere "[ -d ast_jax ] || { git clone ${REPOSITORY:?} ast_jax &&
    curl -LsSf https://astral.sh/uv/install.sh | sh && cd ast_jax &&
    ~/.local/bin/uv venv --python 3.12 && ~/.local/bin/uv pip install -e '.[tpu,convert]'; }"
everywhere "cd ast_jax && JAX_COMPILATION_CACHE_DIR=/mnt/ast/compiled .venv/bin/ast-jax train audioset_full \
    --data.dir /mnt/ast/prepared --workdir /mnt/ast/runs/audioset \
    --init-from /mnt/ast/deit_base_distilled_patch16_384-d0272ac0.pth --batch-size 192 \
    --model.dtype bfloat16 --frontend.on-device --data.workers 4 --distributed"
