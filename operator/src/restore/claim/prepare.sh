# Looks whether Postgres would find here what the backup's configuration needs, and whether the claims are empty; marks the
# data directory's with the Restore that they are for: so only what that one has begun goes on.
# CLAIM: where the data directory's claim is mounted. BESIDE: where the others are, a line each.
# PGDATA: the data directory, below CLAIM. DIRECTORIES: what else is written, a line each. RESTORE: names the Restore.
# LIBRARIES: shared_preload_libraries, a line each. INCLUDED: files that the configuration includes, a line each.
# Ends with 3 where trying again is of no use.
set -eu
marker=$CLAIM/.holdfast-restore
lines='
'

refuse() {
  echo "$*"
  exit 3
}

# is_empty MOUNT WHAT
is_empty() {
  for path in "$1"/* "$1"/.[!.]* "$1"/..?*; do
    [ -e "$path" ] || [ -L "$path" ] || continue
    name=${path##*/}
    [ "$name" = lost+found ] || refuse "$2 is not empty: it holds $name"
  done
}

# Where the image has its libraries; nothing if that can't be told: then Postgres itself will.
library_directory() {
  program=$(command -v postgres || ls /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres /opt/bitnami/postgresql/bin/postgres 2>/dev/null | head -n 1)
  above=$(dirname "$(dirname "$(readlink -f "${program:-/}")")")
  for folder in "$above/lib" "$above/lib/postgresql"; do
    if [ -e "$folder/plpgsql.so" ]; then
      echo "$folder"
      return
    fi
  done
}

IFS=$lines
for file in ${INCLUDED:-}; do
  [ -e "$file" ] || refuse "the configuration in the backup includes $file, which the image lacks: Postgres would not start"
done
directory=$(library_directory)
for library in ${LIBRARIES:-}; do
  [ -n "$directory" ] || continue
  case $library in
    "\$libdir/"*) path=$directory/${library#*/} ;;
    */*) path=$library ;;
    *) path=$directory/$library ;;
  esac
  [ -e "$path" ] || [ -e "$path.so" ] ||
    refuse "the configuration in the backup preloads the library $library, which the image lacks: Postgres would not start; restore with an image that has it, in spec.postgres.image"
done

# Empty where the one before was killed in writing it.
[ -s "$marker" ] || rm -f "$marker"
if [ "$(cat "$marker" 2>/dev/null)" != "$RESTORE" ]; then
  is_empty "$CLAIM" "the claim"
  for mount in ${BESIDE:-}; do
    is_empty "$mount" "the claim at $mount"
  done
  printf '%s' "$RESTORE" >"$marker"
fi
mkdir -p "$(dirname "$PGDATA")"
for directory in ${DIRECTORIES:-}; do
  mkdir -p "$(dirname "$directory")"
done
