#!/usr/bin/env bash
# Keeps the contract of the official image's entrypoint: an empty data directory is initialised as the environment says,
# then the command runs, as the user postgres if this was root and as whoever this is if not.
#   POSTGRES_PASSWORD  POSTGRES_USER (postgres)  POSTGRES_DB (the user's name)  POSTGRES_INITDB_ARGS: each also as
#   NAME_FILE, a file that holds it;  POSTGRES_INITDB_WALDIR  POSTGRES_HOST_AUTH_METHOD
#   /docker-entrypoint-initdb.d: *.sh, *.sql, *.sql.gz, *.sql.xz, *.sql.zst are run once, on the new database
set -Eeuo pipefail

# setting NAME DEFAULT: takes the variable, or what its file holds.
setting() {
  local file=$1_FILE
  if [ -n "${!1:-}" ] && [ -n "${!file:-}" ]; then
    echo "error: both $1 and $file are set" >&2
    exit 1
  fi
  if [ -n "${!file:-}" ]; then export "$1=$(<"${!file}")"; else export "$1=${!1:-$2}"; fi
  unset "$file"
}

make_folders() {
  local folders=("$PGDATA")
  mkdir -p "$PGDATA"
  # A volume's root may belong to someone else, and work nevertheless.
  chmod 700 "$PGDATA" 2>/dev/null || true
  chmod 3775 /var/run/postgresql 2>/dev/null || true
  if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
    mkdir -p "$POSTGRES_INITDB_WALDIR"
    chmod 700 "$POSTGRES_INITDB_WALDIR"
    folders+=("$POSTGRES_INITDB_WALDIR")
  fi
  [ "$(id -u)" != 0 ] || find "${folders[@]}" /var/run/postgresql ! -user postgres -exec chown postgres {} +
}

# initdb wants a name for its user, and any number may run this.
give_a_name() {
  getent passwd "$(id -u)" >/dev/null && return
  NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
  echo "postgres:x:$(id -u):$(id -g)::$PGDATA:/bin/false" >"$NSS_WRAPPER_PASSWD"
  echo "postgres:x:$(id -g):" >"$NSS_WRAPPER_GROUP"
  LD_PRELOAD=$(echo /usr/lib/*/libnss_wrapper.so)
  export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD
}

initialise() (
  if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
    echo "error: the database is not initialised and no superuser password is given: set POSTGRES_PASSWORD," >&2
    echo "       or POSTGRES_HOST_AUTH_METHOD=trust, which lets everybody in" >&2
    exit 1
  fi
  give_a_name
  # The arguments are words for a shell, as users write them.
  eval "arguments=($POSTGRES_INITDB_ARGS)"
  [ -z "$POSTGRES_PASSWORD" ] || arguments+=(--pwfile=/dev/stdin)
  [ -z "${POSTGRES_INITDB_WALDIR:-}" ] || arguments+=(--waldir="$POSTGRES_INITDB_WALDIR")
  initdb --username="$POSTGRES_USER" "${arguments[@]}" <<<"$POSTGRES_PASSWORD"
  rm -f "${NSS_WRAPPER_PASSWD:-}" "${NSS_WRAPPER_GROUP:-}"
)

allow_connections() {
  local method=$POSTGRES_HOST_AUTH_METHOD
  [ -n "$method" ] || method=$(postgres -C password_encryption "${@:2}")
  printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# The settings on the command line hold for the server that runs the scripts too.
start_privately() {
  set -- "${@:2}" -c listen_addresses= -p "${PGPORT:-5432}"
  PGUSER=$POSTGRES_USER pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@")" -w start
}

sql() {
  PGHOST='' PGHOSTADDR='' psql --set ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$POSTGRES_USER" "$@"
}

run_scripts() {
  local file
  shopt -s nullglob
  for file in /docker-entrypoint-initdb.d/*; do
    echo "$0: $file"
    # shellcheck disable=SC1090
    case $file in
      *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
      *.sql) sql --dbname "$POSTGRES_DB" --file "$file" ;;
      *.sql.gz) gunzip -c "$file" | sql --dbname "$POSTGRES_DB" ;;
      *.sql.xz) xzcat "$file" | sql --dbname "$POSTGRES_DB" ;;
      *.sql.zst) zstd -dc "$file" | sql --dbname "$POSTGRES_DB" ;;
    esac
  done
}

[ "${1#-}" = "${1:-}" ] || set -- postgres "$@"
if [ "${1:-}" = postgres ]; then
  for argument; do
    case $argument in -'?' | --help | --describe-config | -V | --version) exec "$@" ;; esac
  done
  for name in POSTGRES_PASSWORD POSTGRES_INITDB_ARGS; do setting $name ''; done
  setting POSTGRES_USER postgres
  setting POSTGRES_DB "$POSTGRES_USER"
  export POSTGRES_HOST_AUTH_METHOD=${POSTGRES_HOST_AUTH_METHOD:-}
  make_folders
  if [ "$(id -u)" = 0 ]; then exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"; fi

  if [ -s "$PGDATA/PG_VERSION" ]; then
    echo 'PostgreSQL Database directory appears to contain a database; Skipping initialization'
  else
    initialise
    allow_connections "$@"
    export PGPASSWORD=$POSTGRES_PASSWORD
    start_privately "$@"
    [ "$POSTGRES_DB" = postgres ] ||
      sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
    run_scripts
    PGUSER=$POSTGRES_USER pg_ctl -D "$PGDATA" -m fast -w stop
    unset PGPASSWORD
    echo 'PostgreSQL init process complete; ready for start up.'
  fi
fi
exec "$@"
