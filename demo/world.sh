# The demo's throw-away world; sourced, not run. Makes $world, a folder under /tmp, and $user, an unprivileged uid (empty
# where the demo is not run as root), and sees to it that nothing of either is left, however the demo ends.
#
#   as_user COMMAND…        runs it in $world as $user, with the world's environment alone
#   run 'COMMAND LINE'      prints it as one would type it, and runs it so
#   start NAME 'COMMAND'    the same in the background, with its output in log/NAME.log; ends with the demo

set -euo pipefail
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PARTS=$(cd "${HOLDFAST_PARTS:-$root/.parts}" 2>/dev/null && pwd) || { echo "demo: run \`make parts\` first" >&2; exit 1; }

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' dim='' green='' red='' plain=''; fi

step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
die() {
  printf '%sdemo: %s%s\n' "$red" "$*" "$plain" >&2
  for log in "$world"/log/*.log; do
    [ -s "$log" ] && { echo "--- end of ${log#"$world"/}:"; tail -n 15 "$log"; } >&2
  done
  exit 1
}

# Making a folder happens or fails as a whole: its number is the user's, whom nobody else then has.
user=
world=
first=$((RANDOM % 900))
for ((n = 0; n < 900; n++)); do
  number=$((29100 + (first + n) % 900))
  if mkdir -m 755 "/tmp/holdfast-demo-$number" 2>/dev/null; then
    world=/tmp/holdfast-demo-$number
    break
  fi
done
[ -n "$world" ] || { echo "demo: can't make a folder /tmp/holdfast-demo-*" >&2; exit 1; }
[ "$(id -u)" != 0 ] || user=${world##*-}
tag=demo-${world##*-}

# The guardian waits for the end of file descriptor 8, which only this shell holds open: SIGKILL closes it too.
exec 8> >(cd / && exec sh -c "$(cat "$root/e2e/src/guardian.sh")" guardian "$tag" "$world" "$world.claim" "$user" "${HOLDFAST_TEST_KEEP:-}" >/dev/null 2>&1)
guardian=$!

leave() {
  local code=$?
  trap - EXIT INT TERM HUP
  # The guardian ends all that stands in the world, and this shell does.
  cd /
  exec 8>&-
  wait "$guardian" || { echo "demo: $world could not be removed" >&2; [ $code != 0 ] || code=1; }
  exit $code
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# reachable PATH: prints where $user can run it: there, or a copy where a folder above it is closed to others.
reachable() {
  local path folder copy
  path=$(readlink -f "$1")
  folder=$path
  while [ -n "$user" ] && [ "$folder" != / ]; do
    if [ ! -x "$folder" ] || ! find "$folder" -maxdepth 0 -perm -001 | grep -q .; then
      copy=$world/bin/$(basename "$1")
      cp -alH "$path" "$copy" 2>/dev/null || { rm -rf "$copy"; cp -aH "$path" "$copy"; }
      echo "$copy"
      return
    fi
    folder=$(dirname "$folder")
  done
  echo "$path"
}

mkdir -p "$world"/{bin,log,run,home}

# as_uid UID COMMAND…
as_uid() {
  local uid=$1; shift
  local drop=()
  [ -z "$uid" ] || drop=(setpriv "--reuid=$uid" "--regid=$uid" --clear-groups --)
  # In the background and waited for: a signal to this shell is then answered at once.
  (cd "$world" && exec "${drop[@]}" env -i PATH="$path" HOME="$world/home" LC_ALL=C.UTF-8 TZ=UTC HOLDFAST_TEST_ID="$tag" \
    PGHOST="$world/run" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres "$@" 8>&-) &
  wait $!
}
as_user() { as_uid "$user" "$@"; }

run() {
  printf '%s$ %s%s\n' "$green" "$*" "$plain"
  as_user bash -c "$*" || die "that failed (exit $?): $*"
}

start() {
  printf '%s$ %s &%s\n' "$green" "$2" "$plain"
  { exec 8>&-; as_user bash -c "$2"; } >"$world/log/$1.log" 2>&1 &
}

# until_true SECONDS WHAT COMMAND…: tries every 0.2 s.
until_true() {
  local tries=$(($1 * 5)) what=$2; shift 2
  while ! "$@" >/dev/null 2>&1; do
    ((tries--)) || die "not in time: $what"
    sleep 0.2
  done
}
