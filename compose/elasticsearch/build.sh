#!/usr/bin/env bash
# build.sh HOME: makes an Elasticsearch home from published jars and the launcher in src/ (versions: pom.xml).
# Needs Maven and a JDK of at least 21 in JAVA_HOME.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=$(mkdir -p "$1" && cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf "${home:?}"/{lib,modules,plugins,launcher,natives}
cp -r "$here/pom.xml" "$here/src" "$work/"
mvn -q -B -ntp -f "$work/pom.xml" -Des.home="$home" package

# The transport's descriptor lies inside its jar; the server wants it beside.
cd "$home/modules/transport-netty4"
"$JAVA_HOME/bin/jar" xf transport-netty4-*.jar META-INF/es-plugins/transport-netty4
mv META-INF/es-plugins/transport-netty4/* .
rm -rf META-INF

# Optional: zstd for index.codec=best_compression, which the server's own distribution brings.
mkdir "$home/natives"
zstd=$(ldconfig -p 2>/dev/null | sed -n '/libzstd\.so\.1 /{s/.*=> //p;q}')
[ -z "$zstd" ] || cp -L "$zstd" "$home/natives/libzstd.so"
