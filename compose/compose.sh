# shellcheck shell=bash disable=SC2154
# Compose mode: the services as containers (compose.yaml). Images that cannot be pulled are built from the folder of the
# service, under the same name; an engine or a compose plugin that is missing is installed (engine/).
# shellcheck source=postgres/distribution.sh
source "$compose/postgres/distribution.sh"

# One project for each folder, so that two of them do not share data. Ports are named as in compose.yaml.
dc() {
  local name
  for name in "${names[@]}"; do
    port_variable=ANABRANCH_${name^^}_PORT
    export "$port_variable=$(recorded_port "$name" || true)"
  done
  docker compose --progress quiet --project-name "$(project)" --file "$compose/compose.yaml" --profile versions "$@"
}

# major_of NAME: the version of a service that is PostgreSQL, as compose.yaml has it.
major_of() { image_of "$1" | cut -d: -f2; }
project() { echo "anabranch-$(cksum <<<"$root" | cut -d' ' -f1)"; }
container() { echo "$(project)-$1-1"; }
container_state() { docker inspect --format '{{.State.Status}} {{.State.Pid}}' "$(container "$1")" 2>/dev/null || echo 'stopped 0'; }
image_of() { dc config --format json | jq -r ".services.$1.image"; }

default_port() { sed -n "s/.*\"127\.0\.0\.1:\${ANABRANCH_${1^^}_PORT:-\([0-9]*\)}:.*/\1/p" "$compose/compose.yaml"; }

make_images() {
  local name image missing=()
  for name; do
    docker image inspect "$(image_of "$name")" >/dev/null 2>&1 || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "pulling ${missing[*]}"
  timeout 900 docker compose --progress plain --file "$compose/compose.yaml" pull --ignore-pull-failures "${missing[@]}" >"$root/pull.log" 2>&1 || true
  for name in "${missing[@]}"; do
    image=$(image_of "$name")
    docker image inspect "$image" >/dev/null 2>&1 || build_stand_in "$name" "$image"
  done
}

build_stand_in() {
  local base folder
  folder=$compose/$(folder_of "$1")
  base=$(sed -n 's/^FROM \(debian:[^ ]*\).*/\1/p' "$folder/Dockerfile" | head -n 1)
  "$compose/engine/base-image" "$base"
  say "$2 cannot be pulled ($root/pull.log): building a stand-in"
  # What an image is made of is in its folder, and, for PostgreSQL, in the distribution.
  local sources=(-C "$folder" .)
  case $1 in postgres*) install_distribution "$(major_of "$1")"; sources+=(-C "$(distribution_folder "$(major_of "$1")")" native) ;; esac
  tar -c "${sources[@]}" | docker build --quiet --tag "$2" - >&2
}

# A container that was paused a moment ago may still count as unhealthy, which ends the wait at once.
start_and_wait() {
  local attempt
  for attempt in 1 2 3; do
    ! dc up --detach --wait "$@" >&2 || return 0
    sleep "$attempt"
  done
  return 1
}

# What tests use beside the addresses.
write_extras() {
  local name
  for name; do
    case $name in
      postgres*)
        docker exec "$(container "$name")" cat /var/lib/postgresql/data/ca.crt >"$root/state/$name/ca.crt"
        install_distribution "$(major_of "$name")" # for the clusters that tests make
        ;;
      kafka)
        cat >"$root/state/kafka/tool" <<T
#!/bin/sh
name=\$1; shift
exec docker exec -i $(container kafka) "/opt/kafka/bin/kafka-\$name.sh" "\$@"
T
        chmod 755 "$root/state/kafka/tool"
        ;;
    esac
  done
}

# --- what ./services asks of a mode ---

mode_up() {
  "$compose/engine/engine" up "$root/engine"
  "$compose/engine/plugin"
  needs jq jq
  make_images "$@"
  local name
  for name; do
    mode_runs "$name" || choose_port "$name" "$(default_port "$name")" 1
  done
  dc unpause "$@" >/dev/null 2>&1 || true
  # shellcheck disable=SC2034 # `up` reads `failed`
  start_and_wait "$@" || failed=1
  write_extras "$@"
}

# mode_down keep|wipe: the data.
mode_down() {
  case $1 in keep) dc down >&2 ;; wipe) dc down --volumes >&2; rm -rf "$root/state" ;; esac
  "$compose/engine/engine" down "$root/engine"
}

mode_stop() {
  if [ $# = 1 ]; then
    dc stop "$1" >&2
  else
    mode_runs "$1" || return 0
    docker kill --signal "$2" "$(container "$1")" >/dev/null
    timeout 40 docker wait "$(container "$1")" >/dev/null
  fi
}

mode_start() { start_and_wait --no-recreate "$1"; }
mode_pause() { dc pause "$1" >&2; }
mode_unpause() { dc unpause "$1" >&2; }
mode_runs() { case $(container_state "$1") in running* | paused*) ;; *) return 1 ;; esac; }

mode_status() {
  local state pid
  read -r state pid < <(container_state "$1")
  case $pid in 0) echo stopped - - ;; *) echo "$state" "$pid" - ;; esac
}

mode_env() {
  case $1 in
    postgres*)
      export_line "ANABRANCH_TEST_${1^^}_CA" "$root/state/$1/ca.crt"
      export_line "ANABRANCH_TEST_${1^^}_BIN" "$(distribution_folder "$(major_of "$1")")/native/bin"
      ;;
    kafka) export_line ANABRANCH_TEST_KAFKA_TOOL "$root/state/kafka/tool" ;;
    elasticsearch) export_line ANABRANCH_TEST_ES_REPO /usr/share/elasticsearch/data/repo ;;
  esac
}
