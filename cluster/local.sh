#!/bin/sh
# A Ray cluster of three nodes on this machine: one for the pool, one each for two hospitals.
# Usage: sh cluster/local.sh [options of `hyfree-ray simulate`]
set -eu
port=${PORT:-6399}
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
export RAY_AUTH_TOKEN

stop() { ray stop --force >/dev/null 2>&1 || true; }
trap stop EXIT INT TERM

ray start --head --node-ip-address=127.0.0.1 --port="$port" --num-cpus=1 \
  --include-dashboard=false --resources='{"site:pool": 1}' --disable-usage-stats >/dev/null
for site in 1 2; do
  ray start --address="127.0.0.1:$port" --num-cpus=1 \
    --resources="{\"site:site-$site\": 1}" --disable-usage-stats >/dev/null
done
hyfree-ray simulate --ray "127.0.0.1:$port" "$@"
