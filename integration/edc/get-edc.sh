#!/usr/bin/env bash
# Writes the class path of a control plane of an EDC release: get-edc.sh RELEASE FILE.
#
# The jars are in Maven's own local repository (~/.m2, or what its settings say), where they outlive this checkout. What is
# there already is taken without asking the network.
set -euo pipefail
here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
release=$1 file=$2

pom=$here/pom.xml edr_cache=$release
case $release in # where edr-cache-api was not published for the release
0.15.*) edr_cache=0.14.0 ;;
0.13.*) edr_cache=0.13.0 ;;
0.11.*) pom=$here/pom-0.11.xml ;;
esac

# What was found before, in this checkout, needs no Maven at all.
whole() {
	[ "$file" -nt "$pom" ] || return
	local jars jar
	IFS=: read -r -a jars < "$file"
	for jar in "${jars[@]}"; do
		[ -f "$jar" ] || return
	done
}
if whole; then
	exit
fi

# resolve OPTION...: the file gets its name when it is whole. The two kinds of property are those of Maven up to 3.8 and from
# 3.9 on. A download that does not have its checksum is not kept (-C).
resolve() {
	mvn -q -B -C -ntp -Dstyle.color=never "$@" -f "$pom" -Dedc.version="$release" -Dedr.cache.version="$edr_cache" \
		-Dmaven.wagon.http.retryHandler.count=3 -Dmaven.wagon.rto=60000 \
		-Daether.connector.http.retryHandler.count=3 -Daether.connector.requestTimeout=60000 \
		dependency:build-classpath -DincludeScope=runtime -Dmdep.outputFile="$file.partial" > "$file.log" 2>&1 &&
		mv "$file.partial" "$file"
}

if resolve --offline; then
	exit
fi
echo "interop: getting EDC $release from the Maven registry" >&2
tries=3
for try in $(seq "$tries"); do
	# -U: Maven remembers what was not there, for a day.
	if resolve -U; then
		exit
	fi
	[ "$try" = "$tries" ] || sleep $((try * 10))
done
{
	echo "interop: EDC $release cannot be had from the Maven registry, in $tries tries. Maven says, in $file.log:"
	grep -m 3 '^\[ERROR\]' "$file.log" || tail -n 3 "$file.log"
	echo "interop: it needs the network to the registry, or a mirror of it in ~/.m2/settings.xml, for EDC that is not in the local repository yet"
} >&2
exit 1
