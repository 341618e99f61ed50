#!/usr/bin/env bash
# Starts two control planes of the Eclipse Dataspace Components, a provider's and a consumer's, and stops them when it is
# signalled, or when COMMAND has ended. `run-edc.sh cat` ends with its standard input, so that nothing is left behind by
# whoever started it. Prints a line NAME=URL for each API, then "ready".
#
#   run-edc.sh [COMMAND ARGUMENT...]
#
# Identity is mocked and everything is kept in memory: for tests only. Needs Java 17 and Maven 3, which gets some 40 MB of jars
# for a release, once.
#
#   EDC_VERSION       release: 0.15.1, 0.14.0, 0.13.2 or 0.11.1       (0.15.1)
#   EDC_HOME          directory for class paths, properties, logs     (.cache beside this script)
#   PROVIDER_ID       participant id of the provider                  (did:web:provider.example)
#   CONSUMER_ID       participant id of the consumer                  (did:web:consumer.example)
#   PROVIDER_PORT     base of the provider's five ports               (19190)
#   CONSUMER_PORT     base of the consumer's                          (29190)
#                     +1 observability, +2 control, +3 management, +4 DSP, +5 version; stay below 32768, where the ports
#                     of outgoing connections begin
#   CHECK_PERIOD      seconds between two checks of a data plane      (1)
#   EDC_JAVA_OPTS     options of both JVMs                            (-Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1)
set -euo pipefail
here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
"$here/requirements.sh" java maven

version=${EDC_VERSION:-0.15.1}
home=${EDC_HOME:-$here/.cache}/$version
provider_port=${PROVIDER_PORT:-19190}
consumer_port=${CONSUMER_PORT:-29190}
java_opts=${EDC_JAVA_OPTS:--Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1}
java=${JAVA_HOME:+$JAVA_HOME/bin/}java

fail() {
  echo "run-edc.sh: $*" >&2
  exit 1
}

mkdir -p "$home"
"$here/get-edc.sh" "$version" "$home/classpath"
class_path=$(<"$home/classpath")
# The release as the jars have it.
release=${class_path##*/control-plane-core-}
release=${release%%.jar*}
[ "$release" = "$version" ] || fail "Maven has brought control-plane-core $release, not $version"

pids=()
stop() {
  trap - EXIT INT TERM HUP
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  [ ${#pids[@]} -eq 0 ] || wait "${pids[@]}" 2>/dev/null || true
}
trap stop EXIT
trap 'stop; exit 0' INT TERM HUP

# free FIRST_PORT: nobody listens at the five ports. Somebody there would answer in our place.
free() {
  local port
  for port in $(seq $(($1 + 1)) $(($1 + 5))); do
    if (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null; then
      fail "port $port is taken"
    fi
  done
}

# start ROLE ID FIRST_PORT
start() {
  local role=$1 id=$2 port=$3
  cat > "$home/$role.properties" <<PROPERTIES
edc.participant.id=$id
edc.participant.context.id=$role
edc.hostname=localhost
web.http.port=$((port + 1))
web.http.path=/api
web.http.control.port=$((port + 2))
web.http.control.path=/control
web.http.management.port=$((port + 3))
web.http.management.path=/management
web.http.protocol.port=$((port + 4))
web.http.protocol.path=/protocol
web.http.version.port=$((port + 5))
web.http.version.path=/version
edc.dsp.callback.address=http://localhost:$((port + 4))/protocol
edc.control.endpoint=http://localhost:$((port + 2))/control
edc.data.plane.selector.state-machine.check.period=${CHECK_PERIOD:-1}
PROPERTIES
  # shellcheck disable=SC2086 # the options are a list
  "$java" $java_opts -Dedc.fs.config="$home/$role.properties" -cp "$class_path" \
    org.eclipse.edc.boot.system.runtime.BaseRuntime --no-color --log-level=INFO > "$home/$role.log" 2>&1 < /dev/null &
  pids+=($!)
}

# ready ROLE PID
ready() {
  local i
  for i in $(seq 240); do
    # Not its readiness check: that says yes before the management API is there.
    if grep -q 'Runtime .* ready$' "$home/$1.log"; then return 0; fi
    # A runtime that could not start, for a port that is taken say, logs so and stays.
    if ! kill -0 "$2" 2>/dev/null || grep -q 'SEVERE.*Error booting runtime' "$home/$1.log"; then
      grep -m 5 'SEVERE\|Caused by' "$home/$1.log" >&2 || true
      fail "the $1 did not start, see $home/$1.log"
    fi
    sleep 0.5
  done
  fail "the $1 is not ready after 120 s, see $home/$1.log"
}

free "$provider_port"
free "$consumer_port"
start provider "${PROVIDER_ID:-did:web:provider.example}" "$provider_port"
start consumer "${CONSUMER_ID:-did:web:consumer.example}" "$consumer_port"
ready provider "${pids[0]}"
ready consumer "${pids[1]}"

cat <<READY
EDC_RELEASE=$release
PROVIDER_MANAGEMENT=http://localhost:$((provider_port + 3))/management
PROVIDER_CONTROL=http://localhost:$((provider_port + 2))/control
PROVIDER_DSP=http://localhost:$((provider_port + 4))/protocol
CONSUMER_MANAGEMENT=http://localhost:$((consumer_port + 3))/management
CONSUMER_CONTROL=http://localhost:$((consumer_port + 2))/control
ready
READY

if [ $# -gt 0 ]; then
  # In the background, for a shell takes a signal only once its command in the foreground has ended.
  "$@" <&0 &
  command=$!
  pids+=("$command")
  rc=0
  wait "$command" || rc=$?
  stop
  exit "$rc"
fi
wait -n "${pids[@]}" || true
fail "a control plane has ended, see the logs in $home"
