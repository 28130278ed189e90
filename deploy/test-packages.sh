#!/bin/sh
# Installs the Debian packages that the tests with real clients need, when root; otherwise says what is missing.
# Usage: test-packages.sh HEIMDAL_DIR PACKAGE...
# Heimdal's clients conflict with MIT's as packages, so they are unpacked into HEIMDAL_DIR and not installed.
set -eu
heimdal=$1
shift

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

missing=
for p in "$@"; do
	# Another JDK 17 serves as well.
	case $p in openjdk-17-jdk-headless) command -v javac >/dev/null 2>&1 && continue ;; esac
	installed "$p" || missing="$missing $p"
done
[ -x "$heimdal/usr/bin/kgetcred" ] || needheimdal=1
[ -n "$missing${needheimdal:-}" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "the tests need these Debian packages: $missing ${needheimdal:+heimdal-clients (unpacked in $heimdal)}; run 'make deps' as root" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
if [ -n "$missing" ]; then
	# The daemons are started by the tests, on ports of their own; Debian's units must not start them.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod +x $policy
		trap 'rm -f $policy' EXIT
	fi
	# shellcheck disable=SC2086
	apt-get install -q -y --no-install-recommends $missing
fi
if [ -n "${needheimdal:-}" ]; then
	mkdir -p "$heimdal"
	tmp=$(mktemp -d)
	chmod 755 "$tmp"
	(cd "$tmp" && apt-get download -q heimdal-clients)
	dpkg -x "$tmp"/heimdal-clients_*.deb "$heimdal"
	rm -rf "$tmp"
fi
