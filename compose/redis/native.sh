# shellcheck shell=bash disable=SC2034,SC2154
# Redis as Debian has it.
default_port=26379 ports_wanted=1
stop_signal=TERM

install_software() { needs redis-server redis-server; }
prepare() { mkdir -p "$state/data"; }
command_line() { command=(redis-server "$recipe/redis.conf" --bind 127.0.0.1 --port "$port" --dir "$state/data"); }
answers() { REDISCLI_AUTH=secret redis-cli -p "$port" ping 2>/dev/null | grep -q PONG; }
