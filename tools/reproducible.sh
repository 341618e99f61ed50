#!/bin/sh
# Builds the release twice, from copies of the sources in two directories and with nothing kept from one to the other, and
# compares the binaries byte by byte.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
for dir in one another/and/deeper; do
	mkdir -p "$work/$dir/sources"
	# What git has and what is new, as it is now; never what is ignored.
	git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read --file=- |
		tar --extract --file=- --directory="$work/$dir/sources"
	GOCACHE=$work/$dir/cache make --no-print-directory -C "$work/$dir/sources" build-pinned
done
one=$work/one/sources/bin/caddy-pinned
another=$work/another/and/deeper/sources/bin/caddy-pinned
sha256sum "$one" "$another"
if ! cmp "$one" "$another"; then
	echo "reproducible: the two binaries differ" >&2
	exit 1
fi
echo "reproducible: the two binaries are the same"
