#!/usr/bin/env bash
# Initialises an empty data directory as the environment says, if the command is run.sh; then runs the command.
#   POSTGRESQL_PASSWORD (or POSTGRES_PASSWORD; or either with _FILE, a file that holds it)
#   POSTGRESQL_USERNAME (postgres)  POSTGRESQL_DATABASE  ALLOW_EMPTY_PASSWORD=yes
set -euo pipefail

export POSTGRESQL_VOLUME_DIR=${POSTGRESQL_VOLUME_DIR:-/bitnami/postgresql}
export POSTGRESQL_DATA_DIR=${POSTGRESQL_DATA_DIR:-${PGDATA:-$POSTGRESQL_VOLUME_DIR/data}}
export POSTGRESQL_CONF_DIR=/opt/bitnami/postgresql/conf POSTGRESQL_TMP_DIR=/opt/bitnami/postgresql/tmp

setting() { # NAME…: the first that is set, or whose file is
  local name file
  for name; do
    file=${name}_FILE
    [ -z "${!name:-}" ] || { echo "${!name}"; return; }
    [ -z "${!file:-}" ] || { cat "${!file}"; return; }
  done
}

start_privately() {
  pg_ctl -D "$POSTGRESQL_DATA_DIR" -w start \
    -o "--config-file=$POSTGRESQL_CONF_DIR/postgresql.conf --hba_file=$POSTGRESQL_CONF_DIR/pg_hba.conf -c listen_addresses="
}

# Made at every start: the folder may be an empty volume.
make_configuration() {
  [ -e "$POSTGRESQL_CONF_DIR/postgresql.conf" ] || {
    cp /opt/bitnami/postgresql/share/postgresql/postgresql.conf.sample "$POSTGRESQL_CONF_DIR/postgresql.conf"
    printf "%s\n" "listen_addresses = '*'" "unix_socket_directories = '/tmp'" "port = ${POSTGRESQL_PORT_NUMBER:-5432}" \
      "wal_level = replica" >>"$POSTGRESQL_CONF_DIR/postgresql.conf"
  }
  [ -e "$POSTGRESQL_CONF_DIR/pg_hba.conf" ] || {
    local method=scram-sha-256
    [ "${ALLOW_EMPTY_PASSWORD:-}" != yes ] || method=trust
    printf '%s\n' "local all all trust" "local replication all trust" "host all all all $method" \
      "host replication all all $method" >"$POSTGRESQL_CONF_DIR/pg_hba.conf"
  }
}

initialise() {
  local password user database
  password=$(setting POSTGRESQL_PASSWORD POSTGRES_PASSWORD)
  user=$(setting POSTGRESQL_USERNAME POSTGRES_USER) user=${user:-postgres}
  database=$(setting POSTGRESQL_DATABASE POSTGRES_DATABASE POSTGRES_DB)
  if [ -z "$password" ] && [ "${ALLOW_EMPTY_PASSWORD:-}" != yes ]; then
    echo "postgresql ERROR: POSTGRESQL_PASSWORD is empty and ALLOW_EMPTY_PASSWORD is not yes" >&2
    exit 1
  fi
  initdb -D "$POSTGRESQL_DATA_DIR" --encoding=UTF8 --username=postgres ${password:+--pwfile=/dev/stdin} <<<"$password"
  # The configuration is elsewhere.
  rm "$POSTGRESQL_DATA_DIR/postgresql.conf" "$POSTGRESQL_DATA_DIR/pg_hba.conf"
  start_privately
  if [ "$user" != postgres ]; then
    psql -h /tmp -U postgres -v ON_ERROR_STOP=1 -v name="$user" -v password="$password" \
      <<<'CREATE ROLE :"name" LOGIN CREATEDB PASSWORD :'"'password'"';'
  fi
  if [ -n "$database" ] && [ "$database" != postgres ]; then
    psql -h /tmp -U postgres -v ON_ERROR_STOP=1 -v name="$database" -v owner="$user" <<<'CREATE DATABASE :"name" OWNER :"owner";'
  fi
  pg_ctl -D "$POSTGRESQL_DATA_DIR" -m fast -w stop
}

if [ "$*" = /opt/bitnami/scripts/postgresql/run.sh ]; then
  echo "postgresql INFO ==> ** Starting PostgreSQL setup **"
  if [ "$(id -u)" = 0 ]; then
    mkdir -p "$POSTGRESQL_DATA_DIR"
    chown -R 1001 "$POSTGRESQL_DATA_DIR" "$POSTGRESQL_CONF_DIR" "$POSTGRESQL_TMP_DIR"
    exec setpriv --reuid=1001 --regid=0 --clear-groups "$0" "$@"
  fi
  # initdb wants a name for its user.
  if ! getent passwd "$(id -u)" >/dev/null; then
    NSS_WRAPPER_PASSWD=$(mktemp) NSS_WRAPPER_GROUP=$(mktemp)
    echo "postgres:x:$(id -u):$(id -g)::$POSTGRESQL_DATA_DIR:/bin/false" >"$NSS_WRAPPER_PASSWD"
    LD_PRELOAD=$(echo /usr/lib/*/libnss_wrapper.so)
    export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD
  fi
  make_configuration
  mkdir -p "$POSTGRESQL_DATA_DIR"
  # An fsGroup opens it to the group at every start of a pod.
  chmod 700 "$POSTGRESQL_DATA_DIR"
  if [ -s "$POSTGRESQL_DATA_DIR/PG_VERSION" ]; then
    rm -f "$POSTGRESQL_DATA_DIR/postmaster.pid"
    echo "postgresql INFO ==> Deploying PostgreSQL with persisted data..."
  else
    initialise
  fi
  echo "postgresql INFO ==> ** PostgreSQL setup finished! **"
fi
exec "$@"
