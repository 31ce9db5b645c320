#!/bin/sh
# A Ray cluster of three nodes on this machine: one for the pool, two for three hospitals each.
# Usage: sh cluster/local.sh [options of `hyfree-ray simulate`]
set -eu
command -v ray >/dev/null || { echo "error: no ray here; activate the environment first" >&2; exit 1; }
port=${PORT:-6399}
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
export RAY_AUTH_TOKEN
# Where memory runs out Ray ends stages, and no more of them than it has to.
export RAY_max_kill_memory_buffer_bytes=0

nodes=
# Not `ray stop`: that would end every Ray on this machine.
stop() { for node in $nodes; do kill "$node" 2>/dev/null || true; done; wait; }
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# One after the other: nodes that start at the same time on one machine take each other's sockets.
node() {
  declared=$1
  shift
  ray start --block --num-cpus=1 --disable-usage-stats --resources="$declared" "$@" >/dev/null 2>&1 &
  nodes="$nodes $!"
  first=$(expr "$declared" : '{"\([^"]*\)')
  until ray status --address="127.0.0.1:$port" 2>/dev/null | grep -q "$first"; do
    kill -0 "$!" 2>/dev/null || { echo "error: the node with $first did not start" >&2; exit 1; }
    sleep 1
  done
}

node '{"site:pool": 1}' --head --node-ip-address=127.0.0.1 --port="$port" --include-dashboard=false
node '{"site:site-1": 1, "site:site-2": 1, "site:site-3": 1}' --address="127.0.0.1:$port"
node '{"site:site-4": 1, "site:site-5": 1, "site:site-6": 1}' --address="127.0.0.1:$port"
hyfree-ray simulate --ray "127.0.0.1:$port" "$@"
