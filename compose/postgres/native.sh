# shellcheck shell=bash disable=SC2034,SC2154
# PostgreSQL as Debian has it, its own cluster, as an unprivileged user. `postgres14` and the like: that version, from npm.
# shellcheck source=distribution.sh
source "$compose/postgres/distribution.sh"
major=${service#postgres}
# The versions' ports end in different digits, so that two that look for a free one at once find two.
default_port=254$((${major:-12} + 20)) ports_wanted=1
stop_signal=INT # "fast"; TERM would wait for every client to leave

debian_binaries() { printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1; }
binaries() { if [ -n "$major" ]; then echo "$(distribution_folder "$major")/native/bin"; else debian_binaries; fi; }

install_software() {
  # Also beside another version: for its clients, and its user.
  [ -x "$(debian_binaries)/initdb" ] || locked apt apt_install postgresql
  needs openssl openssl
  [ -z "$major" ] || install_distribution "$major"
}

# PostgreSQL refuses root. The capability lets the user pass through a home directory that is closed to it.
as_postgres() {
  unprivileged=()
  user_is_root || return 0
  unprivileged=(setpriv --reuid=postgres --regid=postgres --clear-groups)
  chown postgres: "$state"
  "${unprivileged[@]}" test -x "$state" 2>/dev/null || unprivileged+=(--inh-caps=+dac_read_search --ambient-caps=+dac_read_search)
}

# program NAME: sets the array `program`, which runs that program of the server's.
program() { program=("${unprivileged[@]}" env LD_LIBRARY_PATH="$(dirname "$(binaries)")/lib" "$(binaries)/$1"); }

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
  program initdb
  "${program[@]}" -D "$data.new" -U postgres -E UTF8 --locale=C.UTF-8 -N \
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
  program postgres
  command=("${program[@]}" -D "$data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories=)
}

answers() { "$(debian_binaries)/pg_isready" -q -h 127.0.0.1 -p "$port"; }
