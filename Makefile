# What a release is built from. The versions of the tools are in tools/go.mod.
CADDY_VERSION = v2.11.9
MODULE = github.com/edrgate/edrgate

TOOL = go tool -modfile=tools/go.mod
FUZZTIME = 30s
BENCHTIME = 1s

.PHONY: all build build-pinned modules pins run run-replicas test fuzz lint golden integration interop postgres replicas faults soak bench bench-postgres clean

all: lint test build

# The binary, as `xcaddy build` makes it for everybody. The version behind @ keeps xcaddy from asking the module proxy
# for one.
build:
	$(TOOL) xcaddy build $(CADDY_VERSION) --output bin/caddy --with $(MODULE)@v0.0.0=.

# The same binary from xcaddy/main.go and its pins, to build a release again later.
build-pinned:
	CGO_ENABLED=0 go build -C xcaddy -trimpath -ldflags "-w -s" -tags nobadger,nomysql,nopgx -o ../bin/caddy-pinned .

# Shows that both have the same modules in the same versions.
modules: build build-pinned
	go version -m bin/caddy | awk '$$1 == "dep"' > bin/modules
	go version -m bin/caddy-pinned | awk '$$1 == "dep"' | diff bin/modules -

# After a change of go.mod.
pins:
	cd xcaddy && go mod tidy

# Runs the quick start against the binary: make run ARGS="..."
run: build
	go run ./examples/quickstart $(ARGS)

# Shows three gateways over one PostgreSQL, whose server it needs, behind a Caddy: make run-replicas ARGS="..."
run-replicas: build
	@./store/postgres/pgtest/requirements.sh postgresql
	go run ./examples/replicas $(ARGS)

# The binary is what the integration tests run.
test: build
	go test -race -timeout 20m ./...

# Runs every fuzz test for FUZZTIME.
fuzz:
	@set -e; for package in $$(go list ./...); do \
		for name in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$name"; go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

lint:
	@files=$$($(TOOL) gofumpt -l .) && { test -z "$$files" || { echo "not formatted: $$files"; exit 1; }; }
	go vet ./...
	$(TOOL) staticcheck ./...
	go vet -tags interop ./integration/edc
	$(TOOL) staticcheck -tags interop ./integration/edc
	go vet -tags postgres ./store/postgres/... ./integration ./integration/replicas ./integration/faults
	$(TOOL) staticcheck -tags postgres ./store/postgres/... ./integration ./integration/replicas ./integration/faults
	@! grep -rnE '\.Skip(f|Now)?\(|testing\.Short\(' --include='*_test.go' . || { echo "no test is skipped here"; false; }

# Writes what the golden files expect. Read the difference before you commit it.
golden: build
	go test ./integration -run '^TestCaddyfileAdapt$$' -update
	go test ./signaling -run '^TestRecordedMessages$$' -update

# The tests that need the built binary.
integration: build
	go test -race -count=1 ./integration/...

# Puts the binary between real EDC control planes: needs Java 17 and Maven 3. Prints a transcript.
interop:
	@./integration/edc/requirements.sh java maven go bash cc
	@$(MAKE) build
	go test -race -tags interop -count=1 -v -timeout 15m ./integration/edc

# The store in PostgreSQL and the gateway over it, with a server of their own: needs PostgreSQL's server and PgBouncer,
# which root on Debian gets by this.
postgres:
	@./store/postgres/pgtest/requirements.sh
	@$(MAKE) build
	go test -race -tags postgres -count=1 -timeout 15m ./store/postgres/...
	go test -race -tags postgres -count=1 -timeout 15m -run '^TestPostgres' ./integration

# Several gateways over one PostgreSQL. SEEDS is how many schedules of faults are tried; SEED=n tries that one.
replicas:
	@./store/postgres/pgtest/requirements.sh
	@$(MAKE) build
	go test -race -tags postgres -count=1 -v -timeout 15m ./integration/replicas

# The tests of docs/faults.md beside those that `make test` and `make replicas` have anyway.
faults:
	@./store/postgres/pgtest/requirements.sh postgresql
	@$(MAKE) build
	go test -race -tags postgres -count=1 -timeout 10m ./integration/faults

# Several gateways and a directory for half an hour: a hundred schedules, a hundred kills of a gateway over a directory, and the database away for 30 s.
soak:
	@./store/postgres/pgtest/requirements.sh
	@$(MAKE) build
	KILLS=100 go test -race -count=1 -v -timeout 30m -run '^TestFaultKilledAgainAndAgain$$' ./integration
	SOAK=1 SEEDS=$(or $(SEEDS),100) go test -race -tags postgres -count=1 -v -timeout 90m ./integration/replicas

# How much of what PostgreSQL can do is left after the store.
bench-postgres:
	@./store/postgres/pgtest/requirements.sh
	go test -tags postgres -run '^$$' -bench . -benchtime $(BENCHTIME) ./store/postgres

bench:
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

clean:
	rm -rf bin
