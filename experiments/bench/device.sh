#!/bin/bash
# All that is measured on a GPU, the most important first: each result is on disk before the next begins.
#   bash experiments/bench/device.sh FOLDER [PYTHON] [PART ...]
# Parts: compile, beside (the peers), md, where (the time goes), size, tests; all of them where none is named. PYTHON needs macejax with jax
# for CUDA, and, to be compared with, mlip with e3j-ops and mace-torch with cuequivariance (mace-torch 0.3.16 runs with 0.7.0 of it).
# Compiling takes most of the time, up to a minute for each program: the first part has all of them compiled at once, which needs cores.
set -u
OUT=$1
PY=${2:-python3}
PARTS=${*:3}
HERE=$(dirname "$0")
MD=$HERE/../md_engines/run.py
mkdir -p "$OUT"
CACHE=${CACHE:-$(mktemp -d)}
export XLA_PYTHON_CLIENT_PREALLOCATE=false MPLBACKEND=Agg TF_CPP_MIN_LOG_LEVEL=2 PYTHONUNBUFFERED=1
export JAX_COMPILATION_CACHE_DIR=$CACHE JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.2
MD_OPTIONS=(--mlip "$PY" --engines "bare forces" device mlip --channels 128 --systems water-192 water-1536 --steps 100 --repeats 3 --cache "$CACHE")
SHOWN=("water-10125 --top 60" "water-192 --top 100 --loop 100" "water-192 --top 100 --loop 100 --plain" "water-10125 --top 10 --plain"
  "water-10125 --top 20 --model L0" "water-10125 --top 20 --model L2" "water-10125 --top 10 --precision TF32_TF32_F32_X3"
  "water-10125 --top 10 --precision TF32_TF32_F32" "water-10125 --top 10 --table")

part() { [ -z "$PARTS" ] || [[ " $PARTS " == *" $1 "* ]]; }
run() { timeout 300 "$PY" "$HERE/run.py" --set device --mlip "$PY" --cache "$CACHE" "$@" 2>&1 | tee -a "$OUT/log"; }
show() { timeout 300 "$PY" "$HERE/hotspots.py" "$@" 2>&1 | tee -a "$OUT/hotspots" | grep us/atom; }

if part compile; then
  run --fill &
  timeout 300 "$PY" "$MD" "${MD_OPTIONS[@]}" --fill >>"$OUT/log" 2>&1 &
  for options in "${SHOWN[@]}" "silicon-216000"; do show $options --only-compile & done
  wait
fi
if part beside; then
  for system in water-10125 water-192 water-1536 aspirin-10; do run --model L1 --systems $system --output "$OUT/$system.json"; done
fi
if part md; then timeout 300 "$PY" "$MD" "${MD_OPTIONS[@]}" --output "$OUT/md.json" 2>&1 | tee -a "$OUT/log"; fi
if part where; then for options in "${SHOWN[@]}"; do show $options; done; fi
if part size; then show silicon-216000 --top 0; fi
if part tests; then timeout 600 "$PY" -m pytest -q -m gpu "$HERE/../../tests" -p no:cacheprovider 2>&1 | tail -5 | tee "$OUT/tests"; fi
