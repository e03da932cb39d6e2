#!/bin/sh
# Builds the archive_library and prints its path. It needs no library: what it takes comes from the server that loads it,
# and so one file fits glibc and musl. It has a target directory and a profile of its own.
set -eu
cd "$(dirname "$0")/../.."
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-C link-arg=-nostdlib -C link-arg=-nostartfiles" cargo rustc --quiet --locked --package holdfast-archive-module \
    --lib --features shared-object --crate-type cdylib --profile archive-module --target "$host" --target-dir target/archive-module
built="target/archive-module/$host/archive-module/libholdfast_archive_module.so"
# What a server of any of these versions has not, or another C library, would show when the module is loaded, and not before.
has='errfinish errmsg_internal errstart DefineCustomStringVariable GetConfigOption MarkGUCPrefixReserved
    PostmasterIsAliveInternal ProcSignalBarrierPending ProcessProcSignalBarrier ShutdownRequestPending
    dlsym memcmp memcpy memmove memset strlen'
for symbol in $(nm -D --undefined-only "$built" | sed 's/.* //'); do
    case " $(echo $has) " in
    *" $symbol "*) ;;
    *) echo "$built needs $symbol, which not every server has" >&2; exit 1 ;;
    esac
done
if readelf -d "$built" | grep -q NEEDED; then
    echo "$built needs a library; it must fit glibc and musl" >&2
    exit 1
fi
named="${built%/*}/holdfast_archive.so"
cp -f "$built" "$named.new"
mv -f "$named.new" "$named"
echo "$PWD/$named"
