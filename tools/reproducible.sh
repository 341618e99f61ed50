#!/bin/sh
# Builds the release twice, from copies of the sources in two directories, and compares the binaries byte by byte. The first
# build uses the cache of earlier ones, the second has none, so it compiles everything: that takes minutes.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
build() { # directory, cache
	mkdir -p "$work/$1/sources"
	# What git has and what is new, as it is now; never what is ignored.
	git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read --file=- |
		tar --extract --file=- --directory="$work/$1/sources"
	GOCACHE=$2 make --no-print-directory -C "$work/$1/sources" build-pinned
}
build one "$(go env GOCACHE)"
build another/and/deeper "$work/cache"
one=$work/one/sources/bin/caddy-pinned
another=$work/another/and/deeper/sources/bin/caddy-pinned
sha256sum "$one" "$another"
if ! cmp "$one" "$another"; then
	echo "reproducible: the two binaries differ" >&2
	exit 1
fi
echo "reproducible: the two binaries are the same"
