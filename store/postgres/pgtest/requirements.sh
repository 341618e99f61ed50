#!/bin/sh
# Sees to it that PostgreSQL's server (postgresql) and PgBouncer (pgbouncer) are there, or only the one that is named. What is
# missing is installed where that is possible without asking anybody, by root with apt-get, and otherwise named.
[ $# -gt 0 ] || set -- postgresql pgbouncer

has_server() {
	for bin in "$(pg_config --bindir 2>/dev/null)" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
		/opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
		[ -x "$bin/initdb" ] && [ -x "$bin/postgres" ] && return 0
	done
	command -v initdb >/dev/null 2>&1 && command -v postgres >/dev/null 2>&1
}
has_pooler() {
	command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ]
}
check() {
	missing=
	for needed in "$@"; do
		case $needed in
		postgresql) has_server || missing="$missing postgresql" ;;
		pgbouncer) has_pooler || missing="$missing pgbouncer" ;;
		*) echo "postgres: unknown requirement: $needed" >&2 && exit 2 ;;
		esac
	done
}

check "$@"
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	# Another installation may be under way. No service is started: the tests run servers of their own.
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
	apt-get -o DPkg::Lock::Timeout=300 update -qq >&2
	# shellcheck disable=SC2086 # a list of packages
	apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $missing >&2
	check "$@"
fi
for package in $missing; do
	case $package in
	postgresql) echo "postgres: missing: PostgreSQL's server: neither PATH nor pg_config leads to initdb and postgres (Debian: apt-get install postgresql)" >&2 ;;
	pgbouncer) echo "postgres: missing: PgBouncer: pgbouncer is not in PATH (Debian: apt-get install pgbouncer)" >&2 ;;
	esac
done
[ -z "$missing" ]
