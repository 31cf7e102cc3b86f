#!/usr/bin/env bash
# initialize.sh [SETTINGS]: gives the fresh cluster in $PGDATA our settings, a certificate authority and a certificate for localhost.
# The official image runs it from /docker-entrypoint-initdb.d, the native recipe after initdb.
set -euo pipefail
settings=${1:-/etc/anabranch/postgresql.conf}

# An authority and a leaf, not one self-signed certificate: rustls refuses an authority as a server's own certificate.
make_certificates() {
  local days=3650
  openssl req -x509 -newkey rsa:2048 -nodes -days $days -subj "/CN=anabranch test authority" -keyout ca.key -out ca.crt
  openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
  openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days $days -out server.crt \
    -extfile <(printf 'basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n')
  chmod 600 ca.key server.key
}

cd "$PGDATA"
make_certificates 2>/dev/null
echo "include '$settings'" >>postgresql.conf
