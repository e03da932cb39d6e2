# Looks whether the claims are empty, and marks the data directory's with the Restore that they are for: so only what that
# one has begun goes on.
# CLAIM: where the data directory's claim is mounted. BESIDE: where the others are, a line each.
# PGDATA: the data directory, below CLAIM. DIRECTORIES: what else is written, a line each. RESTORE: names the Restore.
# Ends with 3 where trying again is of no use.
set -eu
marker=$CLAIM/.holdfast-restore
lines='
'

# is_empty MOUNT WHAT
is_empty() {
  for path in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    name=${path##*/}
    [ "$name" = lost+found ] && continue
    echo "$2 is not empty: it holds $name"
    exit 3
  done
}

# Empty where the one before was killed in writing it.
[ -s "$marker" ] || rm -f "$marker"
if [ "$(cat "$marker" 2>/dev/null)" != "$RESTORE" ]; then
  is_empty "$CLAIM" "the claim"
  IFS=$lines
  for mount in ${BESIDE:-}; do
    is_empty "$mount" "the claim at $mount"
  done
  unset IFS
  printf '%s' "$RESTORE" >"$marker"
fi
mkdir -p "$(dirname "$PGDATA")"
IFS=$lines
for directory in ${DIRECTORIES:-}; do
  mkdir -p "$(dirname "$directory")"
done
