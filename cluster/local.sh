#!/bin/sh
# A Ray cluster of three nodes on this machine: one for the pool, two for three hospitals each.
# Usage: sh cluster/local.sh [options of `hyfree-ray simulate`]
set -eu
port=${PORT:-6399}
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
export RAY_AUTH_TOKEN
# Where memory runs out Ray ends stages, and no more of them than it has to.
export RAY_max_kill_memory_buffer_bytes=0

nodes=
# Not `ray stop`: that would end every Ray on this machine.
stop() { for node in $nodes; do kill "$node" 2>/dev/null || true; done; wait; }
trap stop EXIT INT TERM

node() { ray start --block --num-cpus=1 --disable-usage-stats "$@" >/dev/null 2>&1 & nodes="$nodes $!"; }

node --head --node-ip-address=127.0.0.1 --port="$port" --include-dashboard=false \
  --resources='{"site:pool": 1}'
until ray status --address="127.0.0.1:$port" >/dev/null 2>&1; do sleep 1; done
node --address="127.0.0.1:$port" --resources='{"site:site-1": 1, "site:site-2": 1, "site:site-3": 1}'
node --address="127.0.0.1:$port" --resources='{"site:site-4": 1, "site:site-5": 1, "site:site-6": 1}'
for resource in site:pool site:site-1 site:site-4; do
  until ray status --address="127.0.0.1:$port" | grep -q "$resource"; do sleep 1; done
done
hyfree-ray simulate --ray "127.0.0.1:$port" "$@"
