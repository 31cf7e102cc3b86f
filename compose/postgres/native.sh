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
  end_orphans
}

make_cluster() {
  cd "$state" || exit
  rm -rf "$data" "$data.new"
  echo secret >password
  "${unprivileged[@]}" "$(binaries)/initdb" -D "$data.new" -U postgres -E UTF8 --locale=C.UTF-8 -N \
    --auth-local=trust --auth-host=scram-sha-256 --pwfile=password >"$state/initdb.log"
  "${unprivileged[@]}" env PGDATA="$data.new" bash -s anabranch.conf <"$recipe/initialize.sh"
  mv "$data.new" "$data"
}

# The postmaster is dead here. Its children may still write, and the pid in its lock file may be a zombie's or another
# process's by now: either would keep PostgreSQL from starting.
end_orphans() {
  local pid
  for pid in $(pgrep -x postgres); do
    [ "$(readlink "/proc/$pid/cwd")" != "$data" ] || kill -KILL "$pid"
  done
  rm -f "$data/postmaster.pid"
}

command_line() {
  command=("${unprivileged[@]}" "$(binaries)/postgres" -D "$data" -p "$port"
    -c listen_addresses=127.0.0.1 -c unix_socket_directories=)
}

answers() { "$(binaries)/pg_isready" -q -h 127.0.0.1 -p "$port"; }
