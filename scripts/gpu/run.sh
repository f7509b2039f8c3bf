#!/bin/sh
# Verifies and benchmarks the CUDA device of this machine: ./run.sh [folder for results]. Ends within nine minutes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
results=${1:-${OUT:-$here/results}}
mkdir -p "$results"
if [ ! -x "$here/node" ]; then
  if command -v xz >/dev/null; then
    xz -dc "$here/node.xz" > "$here/node"
  else
    python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' \
      "$here/node.xz" "$here/node"
  fi
  chmod +x "$here/node"
fi
exec "$here/node" "$here/run.mjs" "$results"
