#!/usr/bin/env bash
# entrypoint.sh: the mounted settings, then those that the environment has under dotted names, as the official image reads them.
set -euo pipefail
settings=$ES_HOME/settings
cp --no-preserve=mode "$ES_HOME/config/elasticsearch.yml" "$ES_HOME/log4j2.properties" "$settings/"
# The security module is not here, so neither is its switch.
env | sed -n '/^xpack\./d; s/^\([a-z_]*\.[a-z_.]*\)=/\1: /p' >>"$settings/elasticsearch.yml"
printf 'path.data: %s\npath.logs: /var/log/elasticsearch\n' "$ES_HOME/data" >>"$settings/elasticsearch.yml"
exec "$ES_HOME/run.sh" "$ES_HOME" "$settings"
