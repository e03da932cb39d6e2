# Shared by the scripts beside this file; sourced, not run.
#
# A part is a folder under $PARTS named after its version. It counts as present once its stamp exists, which is
# written last: an interrupted run is repeated from nothing. The whole folder may be deleted at any time.

set -euo pipefail
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
PARTS=${HOLDFAST_PARTS:-$root/.parts}
mkdir -p "$PARTS"
PARTS=$(cd "$PARTS" && pwd)

say() { printf 'parts: %s\n' "$*" >&2; }
die() { printf 'parts: %s\n' "$*" >&2; exit 1; }

# need PROGRAM HINT: stops with the hint where the program is missing.
need() { command -v "$1" >/dev/null 2>&1 || die "$1 is missing: $2"; }

# one_at_a_time NAME: waits until no other run works on this part; held until the script ends.
one_at_a_time() {
  need flock "install util-linux"
  exec 9>"$PARTS/$1.lock"
  flock -n 9 || { say "$1: another run is at it, waiting"; flock 9; }
}

have() { [ -e "$PARTS/$1/.complete" ]; }
complete() { : >"$PARTS/$1/.complete"; }

# as_admin COMMAND…: runs it as root, which Debian's package tools and debootstrap need.
as_admin() {
  if [ "$(id -u)" = 0 ]; then "$@"; else
    need sudo "run \`make parts\` once as root, or install sudo"
    sudo "$@"
  fi
}
