#!/bin/bash
# Hosts on one machine. Runs as the first process of namespaces of its own (network, processes, mounts, host name):
# whatever is started below it ends with it, and it ends when its standard input closes, so when its owner dies.
#
#   lab.sh SCRATCH HOSTS PYTHON_ENVIRONMENT
#
# The hosts are 10.77.0.10, 10.77.0.11, ...; here, "outside", is 10.77.0.1. No way leads to other networks.
set -euo pipefail
scratch=$1 count=$2 environment=$3
here=$(dirname "$(readlink -f "$0")")

# What programs leave in /tmp (ssh's sockets, `ray up`'s notes) stays here; SCRATCH is the machine's.
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work /run/scratch
mount --bind "$scratch" /run/scratch
mount -t overlay overlay -o lowerdir=/tmp,upperdir=/run/upper,workdir=/run/work /tmp
mkdir -p "$scratch" && mount --move /run/scratch "$scratch"
mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray

hostname outside
ip link set lo up
ip link add bridge type bridge
ip addr add 10.77.0.1/24 dev bridge
ip link set bridge up
for ((i = 0; i < count; i++)); do
  unshare --net --mount --pid --fork --kill-child --uts --ipc --propagation private \
    bash "$here/host.sh" "$scratch" "$i" "$environment" </dev/null &
  host=$!
  until [ "$(readlink /proc/$host/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
  ip link add "host$i" type veth peer name eth0 netns "$host"
  ip link set "host$i" master bridge up
done
for ((i = 0; i < count; i++)); do
  until (: </dev/tcp/10.77.0.$((10 + i))/22) 2>/dev/null; do sleep 0.1; done
done
echo ready
read -r _ || true
