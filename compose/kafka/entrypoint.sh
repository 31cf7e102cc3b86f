#!/usr/bin/env bash
# entrypoint.sh: the mounted settings, then KAFKA_* of the environment, as the official image reads them; formats, then runs.
set -euo pipefail
settings=/etc/kafka/server.properties
java=("$JAVA_HOME/bin/java" -Dlog4j2.configurationFile="$KAFKA_HOME/log4j2.properties" -cp "$KAFKA_HOME/libs/*")

cp --no-preserve=mode /mnt/shared/config/server.properties "$settings"
for name in "${!KAFKA_@}"; do
  case $name in KAFKA_HOME | KAFKA_HEAP_OPTS | KAFKA_LOG_LEVEL) continue ;; esac
  key=${name#KAFKA_} key=${key,,}
  echo "${key//_/.}=${!name}" >>"$settings"
done
[ -s "$KAFKA_LOG_DIRS/meta.properties" ] ||
  "${java[@]}" -Xmx128m kafka.tools.StorageTool format --ignore-formatted -t "$CLUSTER_ID" -c "$settings"
# shellcheck disable=SC2086 # options are words
KAFKA_LOG_LEVEL=INFO exec "${java[@]:0:1}" ${KAFKA_HEAP_OPTS:-} "${java[@]:1}" kafka.Kafka "$settings"
