# What a release is built from. The versions of the tools are in tools/go.mod.
CADDY_VERSION = v2.11.9
MODULE = github.com/edrgate/edrgate

TOOL = go tool -modfile=tools/go.mod
FUZZTIME = 30s
FUZZFLAGS =
BENCHTIME = 1s

.PHONY: all build build-pinned modules pins run run-replicas test fuzz lint golden integration hostile interop postgres replicas faults soak \
	bench bench-peers bench-flows bench-postgres chart vuln sbom reproducible clean

all: lint test build

# The binary, as `xcaddy build` makes it for everybody. The version behind @ keeps xcaddy from asking the module proxy
# for one.
build:
	$(TOOL) xcaddy build $(CADDY_VERSION) --output bin/caddy --with $(MODULE)@v0.0.0=.

# The same binary from xcaddy/main.go and its pins, to build a release again later. What of git surrounds the sources does
# not go into it, nor where they lie: see reproducible.
build-pinned:
	CGO_ENABLED=0 go build -C xcaddy -trimpath -buildvcs=false -ldflags "-w -s" -tags nobadger,nomysql,nopgx -o ../bin/caddy-pinned .

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

# Runs every fuzz test for FUZZTIME, all of them even if one finds something, and shows how many inputs each has tried.
fuzz:
	@failed=; for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do \
		for name in $$(grep -h '^func Fuzz' $$dir/*_test.go | sed 's/func \(Fuzz[A-Za-z0-9_]*\).*/\1/'); do \
			echo "== $$dir $$name"; \
			go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $(FUZZFLAGS) $$dir || failed="$$failed $$dir:$$name"; \
		done; \
	done; \
	test -z "$$failed" || { echo "found something:$$failed"; exit 1; }

lint:
	@files=$$($(TOOL) gofumpt -l .) && { test -z "$$files" || { echo "not formatted: $$files"; exit 1; }; }
	go vet ./...
	$(TOOL) staticcheck ./...
	go vet -tags interop ./integration/edc
	go vet -C bench/chart .
	$(TOOL) staticcheck -tags interop ./integration/edc
	go vet -tags postgres ./store/postgres/... ./bench ./integration ./integration/replicas ./integration/faults
	$(TOOL) staticcheck -tags postgres ./store/postgres/... ./bench ./integration ./integration/replicas ./integration/faults
	@! grep -rnE '\.Skip(f|Now)?\(|testing\.Short\(' --include='*_test.go' . || { echo "no test is skipped here"; false; }

# Writes what the golden files expect. Read the difference before you commit it.
golden: build
	go test ./integration -run '^TestCaddyfileAdapt$$' -update
	go test ./signaling -run '^TestRecordedMessages$$' -update

# The tests that need the built binary.
integration: build
	go test -race -count=1 ./integration/...

# Sends more than 1,000 bad inputs to the built binary, and prints how many of each kind.
hostile: build
	go test -race -count=1 -v -timeout 10m ./integration/hostile

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
	KILLS=100 go test -race -count=1 -v -timeout 30m -run '^TestKilledWhileWriting$$' ./store/badger
	SOAK=1 SEEDS=$(or $(SEEDS),100) go test -race -tags postgres -count=1 -v -timeout 90m ./integration/replicas

# How much of what PostgreSQL can do is left after the store, and after whole renewals.
bench-postgres:
	@./store/postgres/pgtest/requirements.sh
	go test -tags postgres -run '^$$' -bench . -benchtime $(BENCHTIME) ./store/postgres
	go test -tags postgres -run '^$$' -bench OverPostgres -benchtime $(BENCHTIME) ./bench

bench:
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

# The gateway beside bare Caddy, other gateways and EDC's data plane, in about 15 minutes: docs/performance.md. What is not
# installed is left out and named. Some tables only: make bench-peers ARGS="-only data,renewal"
bench-peers: build
	go build -o bin/bench-peers ./bench/peers
	bin/bench-peers $(ARGS)
	@$(MAKE) chart

# What the number of flows costs, up to a million: make bench-flows ARGS="-sizes 10000,100000"
bench-flows: build
	go build -o bin/bench-flows ./bench/flows
	bin/bench-flows $(ARGS)
	@$(MAKE) chart

# Draws bench/results.json.
chart:
	go run -C bench/chart . ../results.json ../results.svg

# Against the Go vulnerability database: make vuln VULNDB=https://a-mirror. Where it cannot be reached this fails, and says
# NOT CHECKED.
vuln:
	@VULNDB="$(VULNDB)" ./tools/vuln.sh

# The bill of materials of the binary that releases are built from, in CycloneDX: all modules in it, with their hashes. Our
# own module is replaced by this directory in the binary, so it gets its name and version here.
SBOM = bin/caddy-pinned.cdx.json
sbom: build-pinned
	@version=$$(git describe --tags --always --dirty 2>/dev/null || echo devel); \
	$(TOOL) cyclonedx-gomod bin -json -std -noserial -notimestamp -version "$$version" -output $(SBOM).raw bin/caddy-pinned; \
	sed -e "s|golang/\.\./@(devel)|golang/$(MODULE)@$$version|g" -e 's|"name": "\.\./"|"name": "$(MODULE)"|' \
		-e "s|\"version\": \"(devel)\"|\"version\": \"$$version\"|" $(SBOM).raw > $(SBOM); rm $(SBOM).raw
	@! grep -n '(devel)\|golang/\.\.' $(SBOM) && grep -q '"name": "$(MODULE)"' $(SBOM) || { echo "sbom: our own module is not named in it" >&2; exit 1; }
	sha256sum bin/caddy-pinned $(SBOM)

# Shows that the release's binary does not depend on where and when it is built. Compiles everything anew: takes minutes.
reproducible:
	./tools/reproducible.sh

clean:
	rm -rf bin
