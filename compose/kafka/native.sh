# shellcheck shell=bash disable=SC2034,SC2154
# Apache Kafka from Maven's jars: one node, broker and controller (KRaft). The controller's port is the one after the broker's.
default_port=29092 ports_wanted=2
stop_signal=TERM

install_software() {
  java_home 17 >/dev/null || locked apt apt_install default-jre-headless
  once "$software" "$(checksum_of "$recipe/pom.xml")" fetch_jars
  cp "$recipe/log4j2.properties" "$recipe/tool" "$software/"
  write_tool
}

fetch_jars() {
  rm -rf "$software/libs"
  copy_jars "$recipe/pom.xml" "$software/libs"
}

# $ANABRANCH_TEST_KAFKA_TOOL: it needs no environment of its own.
write_tool() {
  cat >"$state/tool" <<T
#!/usr/bin/env bash
export JAVA_HOME=$(printf %q "$(java_home 17)") KAFKA_HOME=$(printf %q "$software")
exec "\$KAFKA_HOME/tool" "\$@"
T
  chmod 755 "$state/tool"
}

prepare() {
  mkdir -p "$state/tmp"
  write_settings
  [ -s "$state/data/meta.properties" ] || "$state/tool" storage format --ignore-formatted \
    -t "$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | tr -d '=')" -c "$state/server.properties" >"$state/format.log"
}

write_settings() {
  cp "$recipe/server.properties" "$state/server.properties"
  cat >>"$state/server.properties" <<P
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
log.dirs=$state/data
P
}

command_line() {
  export KAFKA_LOG_LEVEL=INFO
  command=("$(java_home 17)/bin/java" -Xms512m -Xmx512m -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -Djava.awt.headless=true -Djava.io.tmpdir="$state/tmp"
    -Dlog4j2.configurationFile="$software/log4j2.properties" -cp "$software/libs/*" kafka.Kafka "$state/server.properties")
}

answers() { ! port_is_free "$port"; }
