# shellcheck shell=bash disable=SC2034,SC2154
# Elasticsearch from Maven's server jars and a launcher of ours (src/). The transport port is the one after the HTTP port.
default_port=29200 ports_wanted=2
stop_signal=TERM

install_software() {
  needs curl curl
  java_home 21 javac >/dev/null || locked apt apt_install openjdk-21-jdk-headless
  local sources
  mapfile -t sources < <(find "$recipe/pom.xml" "$recipe/build.sh" "$recipe/src" -type f | sort)
  once "$software" "$(checksum_of "${sources[@]}")" build
}

build() {
  needs mvn maven
  JAVA_HOME=$(java_home 21 javac) locked maven "$recipe/build.sh" "$software" >&2
}

prepare() {
  mkdir -p "$state"/{config,data,logs,tmp,repo}
  cp "$recipe/elasticsearch.yml" "$recipe/log4j2.properties" "$state/config/"
  cat >>"$state/config/elasticsearch.yml" <<Y
network.host: 127.0.0.1
http.port: $port
transport.port: $((port + 1))
path.data: $state/data
path.logs: $state/logs
path.repo: $state/repo
Y
}

command_line() {
  export JAVA_HOME ES_JAVA_OPTS="-Xms1g -Xmx1g" ES_TMPDIR=$state/tmp
  JAVA_HOME=$(java_home 21 javac)
  command=("$recipe/run.sh" "$software" "$state/config")
}

answers() { curl -sf -m 10 -o /dev/null "http://127.0.0.1:$port/_cluster/health?wait_for_status=yellow&timeout=5s"; }
