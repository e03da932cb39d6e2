# shellcheck shell=bash disable=SC2034 # what is set here is read by the scripts beside this file, which source it
#
# A cluster is one process tree in namespaces of its own. What it takes outside of them is named by a number, its index:
#   cgroup    holdfast-cluster-INDEX-DIGEST, in every hierarchy; DIGEST is of the state folder's path
#   link      holdfastINDEX, a veth pair's outer end (it goes with the inner end, and its route with it)
#   network   a /19 of 198.18.0.0/15, which is set aside for tests of networks (RFC 2544)
# An index is taken while its cgroup holds a process, so a claim can't outlive who made it. Whoever looks for a free index
# holds the lock, and clears what a killed run left at the one it takes.

set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
PARTS=${HOLDFAST_PARTS:-$root/.parts}
PATH=$PATH:/usr/sbin:/sbin
# The API server is on this machine; a proxy would not find it.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

indices=16

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { printf 'cluster: %s\n' "$*" >&2; exit 1; }

# as_root "$@": namespaces, mounts and links need it.
as_root() {
  [ "$(id -u)" = 0 ] && return
  command -v sudo >/dev/null || die "run this as root, or install sudo"
  exec sudo --preserve-env=HOLDFAST_PARTS "$0" "$@"
}

# name_cluster NAME: sets $name, its state folder $state, and $digest.
name_cluster() {
  [[ $1 =~ ^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$ ]] || die "'$1' can't name a cluster: small letters, digits and '-', 30 at most"
  name=$1
  state=$root/.cluster/$name
  digest=$(printf %s "$state" | sha256sum | cut -c1-12)
}

# network INDEX: sets the addresses that belong to an index.
network() {
  local base="198.$((18 + $1 / 8))" third=$(($1 % 8 * 32))
  block=$base.$third.0/19
  outer=$base.$third.1 node=$base.$third.2
  services=$base.$((third + 8)).0/21 api=$base.$((third + 8)).1 dns=$base.$((third + 8)).10
  pods=$base.$((third + 16)).0/20
}

# alone: waits until no other script works on this cluster; held until this one ends. The file goes with the cluster, so
# what was locked may no longer be what others see.
alone() {
  mkdir -p "$root/.cluster"
  while :; do
    exec 7>"$state.lock"
    flock -n 7 || { say "$name: another run is at it, waiting"; flock 7; }
    [ "$state.lock" -ef /proc/self/fd/7 ] && return
    mkdir -p "$root/.cluster"
  done
}

# locked COMMAND…: runs it while no other script claims or clears an index. The lock is on a folder: no file stays. What
# COMMAND leaves running must close descriptor 8.
locked() {
  exec 8</run
  flock 8
  "$@"
  exec 8<&-
}

# started PID: when a process started, in the kernel's ticks; empty if it has ended. With its number that names it for good.
started() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
  # Past the program's name, which may contain anything: the state is the first field, the start the twentieth.
  read -ra stat <<<"${stat##*) }"
  [ "${stat[0]}" = Z ] || echo "${stat[19]}"
}

# lives PID:START: whether that process has not ended.
lives() { [ "$(started "${1%:*}")" = "${1#*:}" ]; }

# hierarchies: the top folders of this machine's cgroup hierarchies: one for each controller on cgroup v1, else just one.
hierarchies() { awk '$3 ~ /^cgroup2?$/ && $2 ~ "^/sys/fs/cgroup" { print $2 }' /proc/mounts; }

# cgroups GLOB: the existing cgroups of that name, in all hierarchies.
cgroups() {
  local top
  hierarchies | while read -r top; do compgen -G "$top/$1" || true; done
}

# make_cgroup NAME: in all hierarchies, fit to hold processes.
make_cgroup() {
  local top file
  hierarchies | while read -r top; do
    mkdir -p "$top/$1"
    # v1: a cpuset starts empty, and nothing can run in it.
    for file in cpuset.cpus cpuset.mems; do
      if [ -e "$top/$1/$file" ] && [ ! -e "$top/$1/cgroup.controllers" ]; then
        cat "$(dirname "$top/$1")/$file" >"$top/$1/$file"
      fi
    done
    # v2: what a cgroup may limit is what the one above it passes on.
    if [ -e "$top/$1/cgroup.controllers" ]; then delegate "$(dirname "$top/$1")"; fi
  done
}

# delegate FOLDER: on cgroup v2, lets the cgroups below this one use every controller that it has. What can't be passed on
# is missed by the kubelet, which says so, or not needed.
delegate() {
  local controller
  for controller in $(<"$1/cgroup.controllers"); do echo "+$controller" >"$1/cgroup.subtree_control" 2>/dev/null || true; done
}

# join_cgroup NAME [PID]: moves a process, by default this one.
join_cgroup() {
  local top
  for top in $(hierarchies); do echo "${2:-$$}" >"$top/$1/cgroup.procs"; done
}

# processes GLOB: every process in cgroups of that name and below them.
processes() {
  local folder
  cgroups "$1" | while read -r folder; do
    find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -un
}

# kill_all GLOB: ends every process in cgroups of that name. Rounds, because what is killed may have been about to fork.
kill_all() {
  local pids="" round
  for ((round = 0; round < 200; round++)); do
    pids=$(processes "$1")
    [ -n "$pids" ] || return 0
    # shellcheck disable=SC2086 # an argument each
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  die "processes do not end: $(echo "$pids" | tr '\n' ' ')"
}

# remove_cgroups GLOB: the kernel allows it shortly after their last process is gone.
remove_cgroups() {
  local folder round
  for ((round = 0; round < 100; round++)); do
    cgroups "$1" | while read -r folder; do find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
    [ -n "$(cgroups "$1")" ] || return 0
    sleep 0.05
  done
  die "cgroups can't be removed: $(cgroups "$1" | tr '\n' ' ')"
}

# clear_index INDEX: removes what an ended cluster left outside its namespaces. The link normally went with them.
clear_index() {
  ip link delete "holdfast$1" 2>/dev/null || true
  remove_cgroups "holdfast-cluster-$1-*"
}

# end_cluster: ends this cluster in whatever state it is. Its folder stays. Sets $ended if there was something to end.
end_cluster() {
  local folder index
  for folder in $(cgroups "holdfast-cluster-*-$digest"); do
    index=${folder##*/holdfast-cluster-} index=${index%%-*}
    kill_all "holdfast-cluster-$index-$digest"
    clear_index "$index"
    ended=1
  done
}

# stamp ARCHIVE: notes that this cluster has these images.  stamped ARCHIVE: whether it has.
stamp() { mkdir -p "$state/images" && archive_identity "$1" >"$state/images/$(basename "$1")"; }
stamped() { [ "$(cat "$state/images/$(basename "$1")" 2>/dev/null)" = "$(archive_identity "$1")" ]; }
# Which file it is, and when it was written.
archive_identity() { echo "$(realpath "$1") $(stat -Lc '%i %Y %s' "$1")"; }

# init_pid: the node's first process, as seen from outside; empty if it does not run.
init_pid() {
  local pid
  pid=$(cat "$state/init.pid" 2>/dev/null) || return 0
  # The number may be another process' by now.
  if processes "holdfast-cluster-*-$digest" | grep -qx "$pid"; then echo "$pid"; fi
}

# in_node COMMAND…: runs it inside the node: its files, processes and network.
in_node() {
  local pid
  pid=$(init_pid)
  [ -n "$pid" ] || die "$name is not up: e2e/cluster/up $name"
  nsenter --target "$pid" --mount --net --pid --uts --ipc --cgroup -- "$@"
}
