# Looks whether a claim is empty, and marks it with the Restore that it is for: so only what that one has begun goes on.
# CLAIM: where the claim is mounted. PGDATA: the data directory, below it. RESTORE: names the Restore.
# Ends with 3 where trying again is of no use.
set -eu
marker=$CLAIM/.holdfast-restore
# Empty where the one before was killed in writing it.
[ -s "$marker" ] || rm -f "$marker"
if [ "$(cat "$marker" 2>/dev/null)" != "$RESTORE" ]; then
  for path in "$CLAIM"/* "$CLAIM"/.[!.]* "$CLAIM"/..?*; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    name=${path##*/}
    [ "$name" = lost+found ] && continue
    echo "the claim is not empty: it holds $name"
    exit 3
  done
  printf '%s' "$RESTORE" >"$marker"
fi
mkdir -p "$(dirname "$PGDATA")"
