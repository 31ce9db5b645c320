#!/bin/sh
# A Ray cluster of three nodes on this machine: one for the pool, one each for two hospitals.
# Usage: sh cluster/local.sh [options of `hyfree-ray simulate`]
set -eu
port=${PORT:-6399}
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
export RAY_AUTH_TOKEN

nodes=
# Not `ray stop`: that would end every Ray on this machine.
stop() { for node in $nodes; do kill "$node" 2>/dev/null || true; done; wait; }
trap stop EXIT INT TERM

node() { ray start --block --num-cpus=1 --disable-usage-stats "$@" >/dev/null 2>&1 & nodes="$nodes $!"; }

node --head --node-ip-address=127.0.0.1 --port="$port" --include-dashboard=false \
  --resources='{"site:pool": 1}'
until ray status --address="127.0.0.1:$port" >/dev/null 2>&1; do sleep 1; done
for site in 1 2; do
  node --address="127.0.0.1:$port" --resources="{\"site:site-$site\": 1}"
done
for resource in site:pool site:site-1 site:site-2; do
  until ray status --address="127.0.0.1:$port" | grep -q "$resource"; do sleep 1; done
done
hyfree-ray simulate --ray "127.0.0.1:$port" "$@"
