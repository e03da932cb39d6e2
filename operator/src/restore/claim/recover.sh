# Runs Postgres on a restored directory until it has recovered, and says where that ended. It leaves it promoted and shut
# down, or shut down in its recovery.
# PGDATA: the data directory. ACTION: Promote or Shutdown. RUN: a directory of this pod alone. TOLD: where the answer goes.
# Ends with 3 where trying again is of no use: Postgres did not come as far as to look at its data.
set -u
export LC_ALL=C
log=$RUN/postgres.log

# What Postgres gave up with, and what it says about that.
failed() {
  code=$1
  shift
  [ -z "${follower:-}" ] || kill "$follower" 2>/dev/null
  words=$(grep -v '^LOG: ' "$log" 2>/dev/null | grep -A 2 -E '(FATAL|PANIC): ' | tail -n 3)
  printf '%s' "$*: ${words:-$(tail -n 3 "$log" 2>/dev/null)}" >"$TOLD"
  exit "$code"
}

major=$(cat "$PGDATA/PG_VERSION") || failed 1 "$PGDATA has no PG_VERSION"
bin=
for folder in "/usr/lib/postgresql/$major/bin" "/usr/pgsql-$major/bin" /opt/bitnami/postgresql/bin "$(dirname "$(command -v postgres)")"; do
  if [ -x "$folder/postgres" ]; then
    bin=$folder
    break
  fi
done
[ -n "$bin" ] || failed 3 "the image has no program postgres"

# Nobody gets in, and nothing runs but recovery: no jobs of the database's own, no archiving. What would need files of
# another pod is off. The words below are looked for in the log.
echo 'local all all reject' >"$RUN/pg_hba.conf"
set -- -D "$PGDATA" \
  -c archive_mode=off -c autovacuum=off -c max_worker_processes=0 -c hot_standby=off \
  -c listen_addresses= -c "unix_socket_directories=$RUN" -c unix_socket_permissions=0700 \
  -c "hba_file=$RUN/pg_hba.conf" -c ssl=off -c huge_pages=try \
  -c logging_collector=off -c log_destination=stderr -c log_min_messages=warning -c log_line_prefix= \
  -c lc_messages=C -c timezone=UTC
# Some images keep it elsewhere; postgresql.auto.conf is in the directory all the same.
if [ ! -e "$PGDATA/postgresql.conf" ]; then
  : >"$RUN/postgresql.conf"
  set -- "$@" -c "config_file=$RUN/postgresql.conf"
fi
: >"$log"
"$bin/postgres" "$@" >"$log" 2>&1 &
server=$!
trap 'kill -INT "$server" 2>/dev/null' TERM INT
tail -f "$log" &
follower=$!

case $ACTION in
  Promote) reached='database system is ready to accept connections' ;;
  Shutdown) reached='shutdown at recovery target' ;;
  *) failed 3 "the action $ACTION is not known" ;;
esac
until grep -q "$reached" "$log"; do
  if ! kill -0 "$server" 2>/dev/null; then
    # In its last moment.
    grep -q "$reached" "$log" && break
    # It says this once its configuration and its libraries are in order.
    grep -q 'database system was ' "$log" || failed 3 "Postgres does not start"
    failed 1 "Postgres stopped in its recovery"
  fi
  sleep 1
done
[ "$ACTION" = Shutdown ] || kill -INT "$server"
wait "$server" || failed 1 "Postgres did not shut down cleanly"
kill "$follower" 2>/dev/null

if [ "$ACTION" = Shutdown ]; then
  # Of a server that has shut down in its recovery that is the end of the last record that it replayed.
  control=$("$bin/pg_controldata" -D "$PGDATA") || failed 1 "pg_controldata does not read $PGDATA"
  lsn=$(printf '%s' "$control" | sed -n 's/^Minimum recovery ending location: *//p')
  timeline=$(printf '%s' "$control" | sed -n "s/^Min recovery ending loc's timeline: *//p")
  time=$(sed -n 's/.*recovery stopping after .*, time \([^ ]*\) \([^ ]*\)+00$/"\1T\2Z"/p' "$log" | tail -n 1)
  printf '{"lsn":"%s","time":%s,"timeline":%s}' "$lsn" "${time:-null}" "$timeline" >"$TOLD"
  exit
fi

# The new timeline has the highest number, and where it begins recovery has ended: true also where Postgres was killed
# after that and started once more.
history=$(ls "$PGDATA/pg_wal" | grep '^[0-9A-F]\{8\}\.history$' | sort | tail -n 1)
[ -n "$history" ] || failed 1 "Postgres did not begin a new timeline"
timeline=$((0x${history%.history}))
lsn=$(tail -n 1 "$PGDATA/pg_wal/$history" | cut -f 2)
time=$(sed -n 's/.*last completed transaction was at log time \([^ ]*\) \([^ ]*\)+00$/"\1T\2Z"/p' "$log" | tail -n 1)
printf '{"lsn":"%s","time":%s,"timeline":%s}' "$lsn" "${time:-null}" "$timeline" >"$TOLD"
