#!/usr/bin/env bash
# Installs the programs that tests use and PyPI does not carry, from Debian, where this user may. Elsewhere those tests
# skip and say so.
set -euo pipefail
packages=(chromium chromium-driver redis-server)
missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "tests that need ${missing[*]} will skip: only root on Debian installs them" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install --quiet --quiet --yes --no-install-recommends "${missing[@]}" >/dev/null; }
install 2>/dev/null || { apt-get update --quiet --quiet && install; } ||
  echo "tests that need ${missing[*]} will skip: apt-get could not install them" >&2
