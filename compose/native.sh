# shellcheck shell=bash disable=SC2154
# Native mode: the services as processes of this machine.
# NAME/native.sh is a service's recipe (one for all versions of PostgreSQL). It reads $service, $recipe (its folder), $software
# (installed files, kept), $state (this run's files and data) and $port, and says default_port, ports_wanted, stop_signal, and the functions
#   install_software   idempotent, fetches what is missing
#   prepare            idempotent, makes the data folder and the settings for $port
#   command_line       sets the array `command`, which runs in the foreground
#   answers            succeeds when clients are served

native_seconds_max=120 # a cold JVM on a machine that compiles something else at the same time

# pid_of NAME: the main process of a service of ours that runs.
pid_of() { recorded_pid "$root/state/$1/pid"; }

process_tree() {
  local child
  echo "$1"
  for child in $(pgrep -P "$1"); do process_tree "$child"; done
}

# signal_tree SIGNAL PID: the parent is stopped first, so that no child is born unseen.
signal_tree() {
  case $1 in STOP | KILL) kill -STOP "$2" 2>/dev/null || return 0 ;; esac
  local pid
  for pid in $(process_tree "$2"); do kill "-$1" "$pid" 2>/dev/null || true; done
}

load_recipe() {
  # shellcheck disable=SC2034 # the recipe reads `service`
  service=$1 recipe=$compose/$(folder_of "$1") software=$root/software/$1 state=$root/state/$1
  # shellcheck source=/dev/null
  source "$recipe/native.sh"
}

listens() { ss -ltnpH "sport = :$port" | grep -q "pid=$1,"; }
serves() { listens "$1" && answers; }

# Runs `command` in its folder and a session of its own, with none of our locks and pipes, and records who it is.
spawn() {
  [ ! -e "$state/log" ] || mv "$state/log" "$state/log.1"
  (
    close_descriptors
    cd "$state" || exit
    exec setsid "${command[@]}" >"$state/log" 2>&1 </dev/null
  ) &
  local pid=$!
  identity_of "$pid" >"$state/pid"
}

wait_serving() {
  local pid deadline=$((SECONDS + native_seconds_max))
  while pid=$(pid_of "$1"); do
    ! serves "$pid" || return 0
    [ $SECONDS -lt "$deadline" ] || { say "$1 does not answer, see $state/log"; return 1; }
    sleep 0.1
  done
  return 1
}

# start_native NAME [same-port]: a few attempts, since the children of a killed server need a moment to leave.
start_native() {
  load_recipe "$1"
  mkdir -p "$software" "$state"
  local pid attempt
  if pid=$(pid_of "$1"); then
    port=$(recorded_port "$1")
    signal_tree CONT "$pid"
    wait_serving "$1"
    return
  fi
  install_software
  for attempt in 1 2 3; do
    [ "${2:-}" = same-port ] || choose_port "$1" "$default_port" "$ports_wanted"
    port=$(recorded_port "$1")
    prepare
    command_line
    spawn
    if wait_serving "$1"; then
      say "$1 answers on port $port"
      return
    fi
    sleep "$attempt"
  done
  tail -n 20 "$state/log" >&2
  die "$1 did not start, see $state/log"
}

# stop_native NAME [SIGNAL]: KILL reaches the children as well. What ignores the signal is killed in the end.
stop_native() {
  load_recipe "$1"
  local pid pids signal=${2:-$stop_signal}
  pid=$(pid_of "$1") || return 0
  mapfile -t pids < <(process_tree "$pid")
  case $signal in KILL) signal_tree KILL "$pid" ;; *) kill "-$signal" "$pid" || true ;; esac
  signal_tree CONT "$pid"
  if ! wait_gone 30 "${pids[@]}"; then
    say "$1 ignores $signal: killed"
    signal_tree KILL "$pid"
    wait_gone 10 "${pids[@]}"
  fi
  rm -f "$state/pid"
}

signal_native() {
  local pid
  pid=$(pid_of "$1") || die "$1 does not run"
  signal_tree "$2" "$pid"
}

# --- what ./services asks of a mode ---

mode_up() {
  needs ss iproute2
  needs pgrep procps
  local name
  local -A pid_for
  for name; do
    locked "$name" start_native "$name" &
    pid_for[$name]=$!
  done
  # shellcheck disable=SC2034 # `up` reads `failed`
  for name; do wait "${pid_for[$name]}" || { say "$name failed"; failed=1; }; done
}

# mode_down keep|wipe: the data.
mode_down() {
  local name pids=()
  for name in "${names[@]}"; do
    locked "$name" stop_native "$name" &
    pids+=($!)
  done
  wait "${pids[@]}"
  [ "$1" = keep ] || rm -rf "$root/state"
}

mode_stop() { locked "$1" stop_native "$@"; }
mode_start() { locked "$1" start_native "$1" same-port; }
mode_pause() { signal_native "$1" STOP; }
mode_unpause() { signal_native "$1" CONT; }
mode_runs() { pid_of "$1" >/dev/null; }

# mode_status NAME: "STATE PID MEMORY" of a service.
mode_status() {
  local pid
  pid=$(pid_of "$1") || { echo stopped - -; return; }
  local state=running
  ! grep -q '^State:.*T' "/proc/$pid/status" || state=paused
  # shellcheck disable=SC2046 # one word for each process
  echo "$state" "$pid" "$(ps -o rss= -p $(process_tree "$pid" | paste -sd,) | awk '{ kb += $1 } END { printf "%d MB\n", kb / 1024 }')"
}

mode_env() {
  case $1 in
    postgres*)
      export_line "ANABRANCH_TEST_${1^^}_CA" "$root/state/$1/ca.crt"
      export_line "ANABRANCH_TEST_${1^^}_BIN" "$(load_recipe "$1" && binaries)"
      ;;
    kafka) export_line ANABRANCH_TEST_KAFKA_TOOL "$root/state/kafka/tool" ;;
    elasticsearch) export_line ANABRANCH_TEST_ES_REPO "$root/state/elasticsearch/repo" ;;
  esac
}
