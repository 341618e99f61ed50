#!/bin/sh
# Says all that is missing of what is named, and fails if anything is: requirements.sh TOOL... with java, maven, go, bash, cc.
# Uses nothing but the shell itself, so that it can say so on a machine that has nothing.
missing=0
lacks() {
	echo "interop: missing: $*" >&2
	missing=1
}

# first_number TEXT AFTER: the digits that follow AFTER in TEXT; 0 if there are none.
first_number() {
	rest=${1#*"$2"}
	number=${rest%%[!0-9]*}
	if [ "$rest" = "$1" ] || [ -z "$number" ]; then
		number=0
	fi
}

has() { command -v "$1" >/dev/null 2>&1; }

for tool in "$@"; do
	case $tool in
	java)
		java=${JAVA_HOME:+$JAVA_HOME/bin/}java
		if ! has "$java"; then
			lacks "Java 17 or newer: $java is not there (JAVA_HOME, or java in PATH)"
			continue
		fi
		# openjdk version "17.0.15" ..; 1 for the releases before 9.
		first_number "$("$java" -version 2>&1)" ' version "'
		[ "$number" -ge 17 ] || lacks "Java 17 or newer: $java is Java $number (JAVA_HOME, or java in PATH)"
		;;
	maven)
		if ! has mvn; then
			lacks "Maven 3: mvn is not in PATH"
			continue
		fi
		first_number "$(mvn -version 2>&1)" 'Apache Maven '
		[ "$number" -ge 3 ] || lacks "Maven 3: mvn is Maven $number"
		;;
	go) has go || lacks "Go: go is not in PATH" ;;
	bash) has bash || lacks "bash: it is not in PATH" ;;
	cc) has "${CC:-cc}" || has gcc || has clang || lacks "a C compiler, for the race detector: CC, or cc, gcc or clang in PATH" ;;
	*) lacks "$tool: nobody knows what that is" ;;
	esac
done
exit $missing
