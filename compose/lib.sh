# shellcheck shell=bash disable=SC2154
# Shared by ./services, its two modes and the recipes of the services: messages, locks, ports, packages, Java.

say() { printf 'services: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
# folder_of NAME: where a service's settings and recipe are.
folder_of() { case $1 in postgres*) echo postgres ;; *) echo "$1" ;; esac; }
user_is_root() { [ "$(id -u)" = 0 ]; }

# One waiting line per name: `locked NAME COMMAND...`. What COMMAND leaves running must close the descriptors, or keeps the lock.
locked() {
  local name=$1 descriptor; shift
  mkdir -p "$root/locks"
  exec {descriptor}>"$root/locks/$name"
  flock -n "$descriptor" || { say "waiting for the lock $name"; flock "$descriptor"; }
  "$@"
  exec {descriptor}>&-
}

close_descriptors() {
  local descriptor
  for descriptor in "/proc/$BASHPID/fd"/*; do
    descriptor=${descriptor##*/}
    [ "$descriptor" -le 2 ] || exec {descriptor}>&-
  done
}

# --- processes ---

# A process is ours if pid, start time and boot are those recorded when it was started: a pid alone comes round again.
identity_of() {
  local stat fields
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  read -ra fields <<<"${stat##*) }"
  [ "${fields[0]:-Z}" != Z ] || return 1
  echo "$1 ${fields[19]} $(</proc/sys/kernel/random/boot_id)"
}

# recorded_pid FILE: the process that FILE records, while it runs.
recorded_pid() {
  local record
  { read -r record <"$1"; } 2>/dev/null || return 1
  [ "$(identity_of "${record%% *}")" = "$record" ] || return 1
  echo "${record%% *}"
}

# wait_gone SECONDS PID...
wait_gone() {
  local deadline=$((SECONDS + $1)) pid; shift
  for pid; do
    while identity_of "$pid" >/dev/null; do
      [ $SECONDS -lt "$deadline" ] || return 1
      sleep 0.05
    done
  done
}

# --- ports: the default where it is free, else the next free one; recorded, so that a restart has the same ---

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

ports_are_free() {
  local port
  for ((port = $1; port < $1 + $2; port++)); do port_is_free "$port" || return 1; done
}

recorded_port() { cat "$root/state/$1/port" 2>/dev/null; }

# choose_port SERVICE DEFAULT COUNT: records a port that is free together with the COUNT - 1 after it.
choose_port() {
  local candidate
  for candidate in $(recorded_port "$1" || true) $(seq "$2" 10 $(($2 + 500))); do
    ports_are_free "$candidate" "$3" || continue
    mkdir -p "$root/state/$1"
    echo "$candidate" >"$root/state/$1/port"
    return
  done
  die "$1: no free port near $2"
}

# --- what the machine has to offer ---

# needs COMMAND PACKAGE...: the command, installed from the package where it is missing.
needs() {
  local command=$1; shift
  command -v "$command" >/dev/null || locked apt apt_install "$@"
}

# apt_install PACKAGE...: without starting the services of the packages.
apt_install() {
  { user_is_root && command -v apt-get >/dev/null; } || die "please install: $* (only root on Debian gets it installed)"
  say "installing $*"
  local policy=/usr/sbin/policy-rc.d made_policy=
  if [ ! -e "$policy" ]; then printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; made_policy=$policy; fi
  local failed=
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@"; } \
    >"$root/apt.log" 2>&1 </dev/null || failed=1
  [ -z "$made_policy" ] || rm -f "$made_policy"
  [ -z "$failed" ] || { tail -n 5 "$root/apt.log" >&2; die "apt-get could not install $* ($root/apt.log)"; }
}

# java_home MINIMUM [TOOL]: the oldest Java of at least that version (with that tool, for example javac).
java_home() {
  local home version
  for home in ${JAVA_HOME:+"$JAVA_HOME"} /usr/lib/jvm/* "$root"/software/*/java; do
    [ -x "$home/bin/${2:-java}" ] || continue
    version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release" 2>/dev/null || true)
    [ "${version:-0}" -lt "$1" ] || echo "$version $home"
  done | sort -n | sed -n '1s/^[0-9]* //p' | grep .
}

# Maven under a lock, since its local repository is not made for two writers.
maven() { needs mvn maven; locked maven mvn -q -B -ntp "$@" >&2; }

# copy_jars POM DIRECTORY: everything that the POM depends on at run time.
copy_jars() {
  maven -f "$1" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$2"
}

# once DIRECTORY STAMP COMMAND...: runs the command unless it has already succeeded with this stamp.
once() {
  local directory=$1 stamp=$2; shift 2
  [ "$(cat "$directory/.stamp" 2>/dev/null || true)" != "$stamp" ] || return 0
  mkdir -p "$directory"
  rm -f "$directory/.stamp"
  "$@"
  echo "$stamp" >"$directory/.stamp"
}

checksum_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
