#!/usr/bin/env bash
# Makes sure that there is a redis-server to show the demo with; installs it when it is missing.
set -euo pipefail

if command -v redis-server >/dev/null; then exit; fi
as_root=
if [ "$(id -u)" != 0 ]; then as_root=sudo; fi
if command -v apt-get >/dev/null; then
  echo "redis-server is missing: installing Debian's package"
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends redis-server
elif command -v brew >/dev/null; then
  echo "redis-server is missing: installing it with Homebrew"
  brew install --quiet redis
else
  echo "The demo needs redis-server on PATH, and this machine has neither apt-get nor brew to install it with." >&2
  echo "Install Redis (https://redis.io/docs/latest/operate/oss_and_stack/install/) and run the same command again." >&2
  exit 1
fi
