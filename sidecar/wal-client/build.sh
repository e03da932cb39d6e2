#!/bin/sh
# Builds the static holdfast-wal and prints its path. It has a target directory and a profile of its own: the flag
# would be wrong for what resolves names, and would rebuild everything else.
set -eu
cd "$(dirname "$0")/../.."
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked --package holdfast-wal --profile wal-client \
    --target "$host" --target-dir target/wal-client
built="target/wal-client/$host/wal-client/holdfast-wal"
size=$(wc -c < "$built")
if [ "$size" -ge 2000000 ]; then
    echo "$built has $size bytes; it must stay under 2 MB" >&2
    exit 1
fi
echo "$PWD/$built"
