#!/bin/bash
# One host, in namespaces of its own: a file tree, processes, a network address and sshd. Called by lab.sh.
#
# Its file tree is the machine's, copied on write: the system and the Python environment are shared for reading, and
# whatever a host writes (its home, /etc, packages that set-up installs into the environment) is its own and
# lives in memory. Only SCRATCH/shared is common to all hosts, as a network file system would be.
set -euo pipefail
scratch=$1 index=$2 environment=$3
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add "10.77.0.$((10 + index))/24" dev eth0
ip link set eth0 up
ip route add default via 10.77.0.1 # leads nowhere; Ray takes the address it would leave by for its own
hostname "host$index"

tree=$scratch/tree
mkdir -p "$tree" && mount -t tmpfs tmpfs "$tree"
mkdir "$tree"/{upper,work,root}
root=$tree/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$tree/upper,workdir=$tree/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/run/sshd" "$root/tmp/ray" "$root/srv/shared"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp/ray"
mount --bind "$scratch/shared" "$root/srv/shared"

# The user of cluster.yaml, with the rights to write the environment (first of all users, as ssh asks for the home of
# user 0); a home with nothing in it but the environment.
home=$root/home/ubuntu
rm -rf "$home"
mkdir -p "$home/.ssh" "$home/halflife"
printf '127.0.0.1 localhost\n127.0.1.1 host%s\n' "$index" >"$root/etc/hosts" # as Debian's installer leaves it
sed -i '1i ubuntu:*:0:0::/home/ubuntu:/bin/bash' "$root/etc/passwd"
install -m 600 "$scratch/key.pub" "$home/.ssh/authorized_keys"
ln -s "$environment" "$home/halflife/.venv"
rm -f "$root$environment"/.train "$root$environment"/.cluster # make's stamps: set-up installs, and finds nearly all there
cp "$scratch/profile" "$home/.profile"
cp "$scratch/bashrc" "$home/.bashrc"

chroot "$root" /usr/sbin/sshd -D -e -f /dev/null \
  -o HostKey="$scratch/host_key" -o UsePAM=no -o PermitRootLogin=yes -o PasswordAuthentication=no -o PidFile=none \
  -o MaxStartups=100 2>"$scratch/sshd.$index" &
wait
