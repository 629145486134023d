#!/usr/bin/env bash
# Fetches the real servers that the tests run against, and installs nothing.
#
# Each one is a Debian package, downloaded with all its libraries (libc too) by an apt that looks at no list, source or package state of this
# machine but its own, verified by Debian's signatures, and unpacked under one folder. It runs through that folder's own loader, so a server of
# any Debian release runs on any Linux with apt. No service is ever set up or started.
#
#   servers.sh           fetch what is missing into ${REDFERRY_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/redferry/servers}
#   servers.sh --list    say what is there
#   servers.sh --suites  fetch the servers' own TCL suites, of the same versions, into ${REDFERRY_SUITES:-…/redferry/suites}
#
# A server's folder holds VERSION, the wrappers `server` and `cli`, and root/. It is renamed into place when it has shown its version, so what
# has its name is whole. A suite is the folder tests/ of Debian's source package, which apt verifies like a package; its folder has VERSION, too.
set -euo pipefail

# name, Debian suite, package, upstream version. The name stays when the suite moves on (sid does), VERSION says what it is then.
servers='
redis-6.0  bullseye redis-server  6.0.16
redis-7.0  bookworm redis-server  7.0.15
redis-8.0  trixie   redis-server  8.0.2
valkey-8.1 trixie   valkey-server 8.1.1
valkey-9   sid      valkey-server 9.1.2
'

cache=${XDG_CACHE_HOME:-$HOME/.cache}/redferry
dest=${REDFERRY_SERVERS:-$cache/servers} what=server lists=deb
if [ "${1:-}" = --suites ]; then dest=${REDFERRY_SUITES:-$cache/suites} what=suite lists=deb-src; fi

say() { printf 'servers: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# The machine's own Debian mirror where it has one, else the public one. Security archives have other suites and are left out.
mirror() {
  local found
  found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
    grep -Ev '^[[:space:]]*#' | grep -Eo 'https?://[^[:space:]]+/debian/?([[:space:]]|$)' | head -n 1 | tr -d '[:space:]') || true
  found=${found:-http://deb.debian.org/debian}
  echo "${found%/}"
}

# apt for one suite, blind to everything of the machine but its proxy settings and certificates.
suite_apt() {
  local suite=$1; shift
  local home=$work/$suite
  apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Acquire::Languages=none -o Acquire::AllowReleaseInfoChange=true \
    -o APT::Install-Recommends=false -o Dir::Etc::sourcelist="$home/sources.list" -o Dir::Etc::sourceparts="$home/none" \
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts="$home/none" -o Dir::State="$home/state" -o Dir::State::Lists="$home/lists" \
    -o Dir::State::status="$home/status" -o Dir::Cache="$home/cache" -o Dir::Cache::archives="$archives" "$@"
}

update_suite() {
  local suite=$1 home=$work/$1 url
  if [ -e "$home/status" ]; then return; fi
  mkdir -p "$home/lists/partial" "$home/state" "$home/cache" "$home/none"
  url=$(mirror)
  # An old release leaves the mirrors for the archive one day.
  for url in "$url" http://archive.debian.org/debian; do
    echo "$lists [signed-by=$keyring] $url $suite main" >"$home/sources.list"
    : >"$home/status"
    if suite_apt "$suite" -o APT::Update::Error-Mode=any update; then return; fi
    rm "$home/status"
  done
  die "cannot read Debian's package list of $suite"
}

# A wrapper that runs a program of root/ through the loader and the libraries of root/ alone.
wrap() {
  local where=$1 name=$2 program=$3 root=$1/root loader libs
  loader=$(find "$root" \( -name 'ld-linux*.so.*' -o -name 'ld-2.*.so' \) -type f | head -n 1)
  libs=$(basename "$(dirname "$(find "$root" -name 'libc.so.6' | head -n 1)")") # the architecture's folder, e.g. x86_64-linux-gnu
  [ -n "$loader" ] || die "no dynamic loader came with $program"
  cat >"$where/$name" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/root
exec "\$root/${loader#"$root"/}" --library-path "\$root/usr/lib/$libs:\$root/lib/$libs" "\$root/usr/bin/$program" "\$@"
WRAPPER
  chmod +x "$where/$name"
}

fetch_server() {
  local name=$1 suite=$2 package=$3 pin=$4 new=$work/$1 version deb
  say "fetching $name ($package $pin of Debian $suite)"
  archives=$work/$name.debs
  mkdir -p "$archives/partial" "$new/root"
  update_suite "$suite"
  suite_apt "$suite" -y --download-only install "$package" >/dev/null
  for deb in "$archives"/*.deb; do dpkg-deb -x "$deb" "$new/root"; done
  rm -r "$archives"
  rm -rf "$new/root/usr/share/doc" "$new/root/usr/share/man" "$new/root/usr/share/locale"

  wrap "$new" server "$package"
  wrap "$new" cli "${package%-server}-cli"
  version=$("$new/server" --version | sed -n 's/.* v=\([^ ]*\).*/\1/p')
  [ -n "$version" ] || die "$name does not say its version"
  put "$name" "$suite" "$version" "$pin"
}

# Only the upstream archive is fetched and only tests/ unpacked: a suite that runs against a server that is there needs nothing else.
fetch_suite() {
  local name=$1 suite=$2 source=${3%-server} pin=$4 new=$work/$1 version archive
  say "fetching the suite of $name (source package $source of Debian $suite)"
  archives=$work/$name.src
  mkdir -p "$archives/partial" "$new"
  update_suite "$suite"
  (cd "$archives" && suite_apt "$suite" source --download-only --tar-only "$source" >/dev/null)
  archive=$(find "$archives" -name "${source}_*.orig.tar.*" ! -name '*.asc')
  [ -n "$archive" ] || die "no source archive came for $name"
  version=$(basename "$archive" | sed -E 's/^[^_]*_([0-9.]*[0-9]).*/\1/') # without Debian's suffix, as +dfsg1
  tar -xf "$archive" -C "$new" --strip-components=1 --no-same-owner --wildcards --no-wildcards-match-slash '*/tests'
  [ -e "$new/tests/test_helper.tcl" ] || die "the source of $name has no tests/test_helper.tcl"
  put "$name" "$suite" "$version" "$pin"
}

# Renames what was fetched into place.
put() {
  local name=$1 suite=$2 version=$3 pin=$4 new=$work/$1
  if [ "$version" != "$pin" ]; then
    say "NOTE: Debian $suite has moved on: the $what $name is $version now, not $pin. The tests run against $version; correct the pin in $0." >&2
  fi
  echo "$version" >"$new/VERSION"
  echo "$pin" >"$new/PINNED"
  rm -rf "${dest:?}/$name"
  mv "$new" "$dest/$name"
}

list() {
  local name suite package pin
  echo "$servers" | while read -r name suite package pin; do
    if [ -n "$name" ]; then printf '%-11s %-8s %s\n' "$name" "$(cat "$dest/$name/VERSION" 2>/dev/null || echo missing)" "$dest/$name/server"; fi
  done
}

missing() {
  local name suite package pin
  echo "$servers" | while read -r name suite package pin; do
    if [ -n "$name" ] && [ "$(cat "$dest/$name/PINNED" 2>/dev/null)" != "$pin" ]; then echo "$name $suite $package $pin"; fi
  done
}

if [ "${1:-}" = --list ]; then list; exit; fi
if [ $what = suite ] && ! command -v tclsh >/dev/null; then
  die "the servers' suites are TCL, and this machine has no tclsh: apt-get install tcl (or brew install tcl-tk)"
fi
if [ -z "$(missing)" ]; then exit; fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  [ $what = server ] || die "this machine has no apt, which fetches the suites as Debian source packages"
  say "this machine has no apt: the tests will use the redis-server and valkey-server found on PATH"
  exit
fi
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || die "Debian's keys are missing: apt-get install debian-archive-keyring"

mkdir -p "$dest"
exec 9>"$dest/.lock" # one at a time: whoever comes second finds them all there
flock 9
rm -rf "$dest"/.fetch.* # of one that was killed
work=$(mktemp -d "$dest/.fetch.XXXXXX") # beside the destination, so that the rename is one
trap 'rm -rf "$work"' EXIT
missing >"$work/missing"
while read -r name suite package pin <&3; do "fetch_$what" "$name" "$suite" "$package" "$pin"; done 3<"$work/missing"
if [ $what = server ]; then list; fi
