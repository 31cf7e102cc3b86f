# shellcheck shell=bash disable=SC2034,SC2154
# PostgreSQL as Debian has it, its own cluster, as an unprivileged user.
default_port=25432 ports_wanted=1
stop_signal=INT # "fast"; TERM would wait for every client to leave

binaries() { printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1; }

install_software() {
  [ -x "$(binaries)/initdb" ] || locked apt apt_install postgresql
  needs openssl openssl
}

# PostgreSQL refuses root. The capability lets the user pass through a home directory that is closed to it.
as_postgres() {
  unprivileged=()
  user_is_root || return 0
  unprivileged=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  chown postgres: "$state"
  "${unprivileged[@]}" test -x "$state" 2>/dev/null || unprivileged+=(--inh-caps=+dac_read_search --ambient-caps=+dac_read_search)
}

prepare() {
  data=$state/data
  as_postgres
  [ -s "$data/PG_VERSION" ] || make_cluster
  cp "$recipe/postgresql.conf" "$data/anabranch.conf"
  cp "$data/ca.crt" "$state/ca.crt"
  chmod 644 "$state/ca.crt" "$data/anabranch.conf"
  forget_dead_postmaster
}

make_cluster() {
  cd "$state" || exit
  rm -rf "$data" "$data.new"
  "${unprivileged[@]}" "$(binaries)/initdb" -D "$data.new" -U postgres -E UTF8 --locale=C.UTF-8 -N \
    --auth-local=trust --auth-host=scram-sha-256 --pwfile=<(echo secret) >"$state/initdb.log"
  "${unprivileged[@]}" env PGDATA="$data.new" bash -s anabranch.conf <"$recipe/initialize.sh"
  mv "$data.new" "$data"
}

# After a crash the pid in postmaster.pid may belong to something else by now, and PostgreSQL would refuse to start.
forget_dead_postmaster() {
  local pid
  pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) || return 0
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = postgres ] || rm -f "$data/postmaster.pid"
}

command_line() {
  command=("${unprivileged[@]}" "$(binaries)/postgres" -D "$data" -p "$port"
    -c listen_addresses=127.0.0.1 -c unix_socket_directories=)
}

answers() { "$(binaries)/pg_isready" -q -h 127.0.0.1 -p "$port"; }
