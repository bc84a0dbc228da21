#!/bin/bash
# All that is measured on a GPU, the most important first: each result is on disk before the next begins.
#   bash experiments/bench/device.sh FOLDER [PYTHON] [PART ...]
# Parts: beside (the peers), kernels (of others), md, where (the time goes), size, tests; all of them where none is named. PYTHON needs
# macejax with jax for CUDA and, to be compared with, mlip with e3j-ops, mace-torch with cuequivariance (0.7.0 for mace-torch 0.3.16), and cuequivariance-jax with its
# cuequivariance-ops-jax.
# Compiling takes most of the time: half a minute to a minute for each program of macejax, more for mlip's. Not several at once: of six
# that were begun together on 16 cores none was ready after 140 s. CACHE names a folder that keeps what is compiled, LIMIT
# the seconds after which one line of the table is given up.
set -u
OUT=$1
PY=${2:-python3}
PARTS=${*:3}
HERE=$(dirname "$0")
mkdir -p "$OUT"
CACHE=${CACHE:-$(mktemp -d)}
LIMIT=${LIMIT:-600}
for name in $PARTS; do [[ " beside kernels md where size tests " == *" $name "* ]] || { echo "$name is no part: beside, kernels, md, where, size, tests." >&2; exit 2; }; done
export XLA_PYTHON_CLIENT_PREALLOCATE=false MPLBACKEND=Agg TF_CPP_MIN_LOG_LEVEL=2 PYTHONUNBUFFERED=1
export JAX_COMPILATION_CACHE_DIR=$CACHE JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2

part() { [ -z "$PARTS" ] || [[ " $PARTS " == *" $1 "* ]]; }
run() { timeout "$LIMIT" "$PY" "$HERE/run.py" --set device --model L1 --mlip "$PY" --cache "$CACHE" --systems "$1" --output "$OUT/$1.json" 2>&1 | tee -a "$OUT/log"; }
md() {
  timeout "$LIMIT" "$PY" "$HERE/../md_engines/run.py" --mlip "$PY" --engines "bare forces" device mlip --channels 128 --systems "$1" --steps 100 --repeats 3 \
    --cache "$CACHE" --output "$OUT/md.json" 2>&1 | tee -a "$OUT/log"
}
show() { timeout "$LIMIT" "$PY" "$HERE/hotspots.py" "$@" 2>&1 | tee -a "$OUT/hotspots" | grep us/atom; }

if part beside; then for system in water-192 water-10125 water-1536 aspirin-10; do run $system; done; fi
if part kernels; then
  for system in water-192 water-1536; do timeout "$LIMIT" "$PY" "$HERE/kernels.py" $system --output "$OUT/kernels-$system.json" 2>&1 | tee -a "$OUT/log"; done
fi
if part md; then for system in water-192 water-1536; do md $system; done; fi
if part where; then
  show water-192 --top 100 --loop 100
  show water-192 --top 20 --loop 100 --plain
  # A call is one CUDA graph by itself; with this, a loop over calls is one too.
  XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_enable_command_buffer=+WHILE" show water-192 --top 0 --loop 100
  show water-10125 --top 60
  show water-10125 --top 10 --plain
  for model in L0 L2; do show water-10125 --top 20 --model $model; done
  for precision in TF32_TF32_F32_X3 TF32_TF32_F32; do show water-10125 --top 10 --precision $precision; done
fi
if part size; then show silicon-216000 --top 0; fi
if part tests; then "$PY" -m pytest -q -m gpu "$HERE/../../tests" -p no:cacheprovider 2>&1 | tail -5 | tee "$OUT/tests"; fi
