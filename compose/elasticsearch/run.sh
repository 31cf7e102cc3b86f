#!/usr/bin/env bash
# run.sh HOME CONFIG: the node, in the foreground. Settings: JAVA_HOME, ES_JAVA_OPTS, ES_TMPDIR.
set -euo pipefail
# shellcheck disable=SC2086 # options are words
exec "$JAVA_HOME/bin/java" ${ES_JAVA_OPTS:-} -XX:+UseG1GC -XX:-OmitStackTraceInFastThrow \
  -Djava.io.tmpdir="${ES_TMPDIR:-/tmp}" -Djava.awt.headless=true -Dfile.encoding=UTF-8 -Djna.nosys=true \
  -Dlog4j.shutdownHookEnabled=false -Dlog4j2.disable.jmx=true \
  -Dio.netty.noUnsafe=true -Dio.netty.noKeySetOptimization=true -Dio.netty.recycler.maxCapacityPerThread=0 \
  -Des.nativelibs.path="$1/natives" -Dorg.elasticsearch.nativeaccess.enableVectorLibrary=false \
  --enable-native-access=ALL-UNNAMED,org.elasticsearch.nativeaccess,org.elasticsearch.foreign,org.apache.lucene.core \
  --add-modules=ALL-MODULE-PATH,jdk.incubator.vector --module-path "$1/lib" \
  -cp "$1/launcher/es-node-1.jar" esnode.EsNode "$1" "$2"
