# shellcheck shell=bash disable=SC2034 # what is set here is read by the scripts beside this file, which source it
#
# An image is built by buildah from its Containerfile and kept as an archive, $PARTS/images/NAME-KEY.tar, linked as
# $PARTS/images/NAME.tar. KEY is a digest of all that goes in: what has not changed is not built again.

. "$(dirname "${BASH_SOURCE[0]}")/../parts/lib.sh"

images=$root/e2e/images
archives=$PARTS/images
storage=$archives/.storage
mkdir -p "$archives"

need buildah "run e2e/parts/debian"

# A storage of its own, which wants no daemon and no special file system; all it holds is a cache.
builder() { as_admin buildah --storage-driver vfs --root "$storage" --runroot "$storage/run" "$@"; }

# digest_of PATH…: of the contents of these files, and of all files in these folders with their names.
digest_of() {
  local path
  for path in "$@"; do
    if [ -d "$path" ]; then (cd "$path" && find . -type f -print0 | sort -z | xargs -0 sha256sum); else sha256sum <"$path"; fi
  done | sha256sum | cut -c1-16
}

# part NAME: the path behind a part's link.
part() { realpath -e "$PARTS/$1" 2>/dev/null || die "$PARTS/$1 is missing: run \`make parts\`"; }

# key FOLDER PARTS [ARGUMENT…]: of an image whose Containerfile and files are in FOLDER, made with these parts and arguments.
# A part's versioned name stands for its content.
key() {
  local folder=$1 parts=$2 name
  shift 2
  {
    digest_of "$folder" "$images/lib.sh"
    for name in $parts; do realpath --relative-to "$PARTS" "$(part "$name")"; done
    echo "$*"
  } | sha256sum | cut -c1-16
}

archived() { [ -e "$archives/$1-$2.tar" ]; }

# build TAG CONTEXT [BUILDAH_ARGUMENT…]: into the storage. One date for all, so that the same files make the same layer.
build() {
  local tag=$1 context=$2; shift 2
  builder bud --quiet --isolation chroot --pull-never --timestamp 0 --tag "$tag" "$@" "$context" >/dev/null
}

# image NAME KEY TAG CONTEXT [BUILDAH_ARGUMENT…]: the archive, unless it is there.
image() {
  local name=$1 key=$2 tag=$3; shift 2
  if ! archived "$name" "$key"; then
    say "image $tag: building"
    build "$@"
    rm -f "$archives/$name"-[0-9a-f]*.tar "$archives/.$name.new"
    builder push --quiet "$tag" "docker-archive:$archives/.$name.new:$tag"
    as_admin chmod a+r "$archives/.$name.new"
    mv "$archives/.$name.new" "$archives/$name-$key.tar"
    builder rmi "$tag" >/dev/null
  fi
  ln -sfn "$name-$key.tar" "$archives/$name.tar"
}
