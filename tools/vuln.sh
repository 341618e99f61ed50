#!/bin/sh
# Checks the modules of the gateway, of the shipped binary and of the tools against the Go vulnerability database.
#
#	0   all were checked, and none has a known vulnerability that is reached
#	3   vulnerabilities were found
#	75  NOT CHECKED: the database cannot be reached (EX_TEMPFAIL of sysexits.h)
#	1   not checked for another reason
#
# VULNDB names another database, for example a mirror: https://… or file:///…. GOVULNCHECK is the command to run.
cd "$(dirname "$0")/.." || exit 1
root=$PWD
database=${VULNDB:-https://vuln.go.dev}
output=$(mktemp) || exit 1
trap 'rm -f "$output"' EXIT

# Of the tools it is enough to know what they import: none of their code is shipped.
found=0
for checked in ". ./..." "xcaddy ./..." "tools -scan=package tool"; do
	dir=${checked%% *}
	echo "== modules of $dir/go.mod, against $database"
	# Word splitting is wanted: both are lists of words.
	# shellcheck disable=SC2086
	${GOVULNCHECK:-go tool -modfile="$root/tools/go.mod" govulncheck} -C "$root/$dir" -db "$database" ${checked#* } >"$output" 2>&1
	status=$?
	cat "$output"
	case $status in
	0) ;;
	3) found=3 ;;
	*)
		if grep -q 'fetching vulnerabilities\|vulnerability database' "$output"; then
			echo "vuln: NOT CHECKED: the vulnerability database $database cannot be reached. This says nothing about the modules." >&2
			exit 75
		fi
		echo "vuln: NOT CHECKED: govulncheck has failed with exit code $status" >&2
		exit 1
		;;
	esac
done
if [ $found -ne 0 ]; then
	echo "vuln: vulnerabilities were found, see above" >&2
	exit $found
fi
echo "vuln: checked, none found"
