#!/usr/bin/env bash
# Runs the server. Arguments are not for it: POSTGRESQL_EXTRA_FLAGS are.
set -euo pipefail
read -ra extra <<<"${POSTGRESQL_EXTRA_FLAGS:-}"
echo "postgresql INFO ==> ** Starting PostgreSQL **"
exec postgres -D "$POSTGRESQL_DATA_DIR" --config-file="$POSTGRESQL_CONF_DIR/postgresql.conf" \
  --hba_file="$POSTGRESQL_CONF_DIR/pg_hba.conf" --external_pid_file="$POSTGRESQL_TMP_DIR/postgresql.pid" "${extra[@]}"
