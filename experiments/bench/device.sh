#!/bin/bash
# All that is measured on a GPU, in one call, the most important first: each result is on disk before the next begins.
#   bash experiments/bench/device.sh FOLDER [PYTHON]
# PYTHON needs macejax with jax for CUDA, and, to be compared with, mlip and mace-torch (cuequivariance too where it fits mace-torch: 0.13 does
# not fit 0.3.16). Compiling takes most of the time, about a minute per case.
set -u
OUT=$1
PY=${2:-python3}
HERE=$(dirname "$0")
mkdir -p "$OUT"
export XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$OUT/cache} MPLBACKEND=Agg
run() { timeout 300 "$PY" "$HERE/run.py" --set device --model L1 --mlip "$PY" --systems "$1" "${@:2}" --output "$OUT/$1.json" 2>&1 | tee -a "$OUT/log"; }
show() { timeout 300 "$PY" "$HERE/hotspots.py" "$@" 2>&1 | tee -a "$OUT/hotspots" | grep us/atom; }
run water-10125 --only macejax,mlip
run water-192
run water-1536
timeout 300 "$PY" "$HERE/../md_engines/run.py" --mlip "$PY" --engines "bare forces" device mlip --channels 128 --systems water-192 water-1536 \
  --steps 100 --repeats 3 --output "$OUT/md.json" 2>&1 | tee -a "$OUT/log"
show water-10125 --top 60
show water-192 --top 100
show water-10125 --top 10 --plain
for model in L0 L2; do show water-10125 --top 20 --model $model; done
for precision in TF32_TF32_F32_X3 TF32_TF32_F32; do show water-10125 --top 10 --precision $precision; done
timeout 600 "$PY" -m pytest -q -m gpu "$HERE/../../tests" -p no:cacheprovider 2>&1 | tail -5 | tee "$OUT/tests"
show silicon-216000 --top 0
