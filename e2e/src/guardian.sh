# Ends a test's world: every process in it, its mounts, its shared memory, its directory. Run by World as
#   sh -c THIS guardian ID DIR CLAIM UID KEEP
# with a pipe as standard input that only the test's process holds open: however that process ends (SIGKILL included),
# the pipe closes and the work below begins. UID is empty where the tests do not run as root.
id=$1 dir=$2 claim=$3 uid=$4 keep=$5
trap '' INT TERM HUP QUIT
cat >/dev/null

# A process belongs to the world by its user, by the tag in its environment, or by standing in the world's directory:
# Postgres' backends overwrite their environment to show their title, but stand in the data directory.
members() {
  {
    [ -z "$uid" ] || find /proc -maxdepth 1 -name '[0-9]*' -user "$uid" -printf '%f\n'
    grep -lsa "HOLDFAST_TEST_ID=$id" /proc/[0-9]*/environ | cut -d/ -f3
    find /proc/[0-9]*/cwd -maxdepth 0 \( -lname "$dir" -o -lname "$dir/*" \) -printf '%h\n' | cut -d/ -f3
  } 2>/dev/null | sort -u | grep -vx "$$"
}

# Rounds, because what is killed may have been about to fork.
round=0
while pids=$(members) && [ -n "$pids" ] && [ $round -lt 100 ]; do
  kill -KILL $pids 2>/dev/null
  round=$((round + 1))
  sleep 0.05
done

# A killed Postgres leaves its interlock segment. Its id is the second field of line 7 of postmaster.pid.
{
  find "$dir" -name postmaster.pid -exec awk 'FNR == 7 { print $2 }' {} +
  [ -z "$uid" ] || awk -v uid="$uid" 'NR > 1 && $8 == uid { print $2 }' /proc/sysvipc/shm
} 2>/dev/null | sort -u | while read -r segment; do
  [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
done

awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do
  umount -l "$mount"
done

if [ -z "$keep" ]; then
  chmod -R u+rwX "$dir" 2>/dev/null
  rm -rf "$dir"
  rmdir "$claim" 2>/dev/null
  [ ! -e "$dir" ]
fi
