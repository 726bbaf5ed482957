# The two commands of the README are `make demo` and `make test`.

CARGO ?= cargo
PROFILE ?= release

.PHONY: demo test soak test-page test-garage bench lint supply-chain build install tools test-tools

# Shows the whole idea in a minute, and checks every step of it.
demo: tools
	$(CARGO) run --profile $(PROFILE) --locked -- demo

# Unit, model and conformance tests, and real mounts.
test: test-tools
	$(CARGO) test --locked --no-fail-fast

# Ten minutes of kills at random while many write, read and evict; LARDER_SOAK=3600 makes it an hour. It
# says how to repeat what failed: LARDER_SEED=NUMBER.
LARDER_SOAK ?= 600
soak: tools
	LARDER_SOAK=$(LARDER_SOAK) $(CARGO) test --profile $(PROFILE) --locked --test crash -- --exact --nocapture random::p3_killed_at_random_while_many_write

# The server's page in a real browser. Installs Chromium where there is none, which is large.
test-page:
	@packaging/tools.sh page
	$(CARGO) test --locked --test page -- --include-ignored

# The same promises against a real object store. Builds Garage where there is none, which takes minutes.
test-garage: test-tools
	garage="$$(packaging/garage.sh)" && LARDER_GARAGE="$$garage" $(CARGO) test --locked --test garage -- --include-ignored

# The server against a stand-in of an FXCACHE server; mounts against their peers, a bare directory and
# the limit of the interface, which writes benches/RESULTS.md. Each in one run. And the hot parts, each by
# itself, in a minute: `cargo bench --bench hot` alone needs no tools.
# A quarter of an hour and 20 GB of disk; LARDER_BENCH_FILES=5000 LARDER_BENCH_ENTRIES=50000 takes less of both.
bench: test-tools
	@packaging/tools.sh bench
	rclone="$$(packaging/rclone.sh)" && LARDER_BENCH_RCLONE="$$rclone" $(CARGO) bench --locked --bench mount
	$(CARGO) bench --locked --bench fxcache
	$(CARGO) bench --locked --bench hot

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

# Licences, sources and known vulnerabilities of what is depended on. Builds cargo-deny where there is none.
supply-chain:
	@packaging/supply-chain.sh

build:
	$(CARGO) build --release --locked

PREFIX ?= /usr/local
install: build
	target="$${CARGO_TARGET_DIR:-target}"; install -Dm755 "$$target/release/larder" "$(DESTDIR)$(PREFIX)/bin/larder"

# What a mount needs of the system, installed where it is missing.
tools:
	@packaging/tools.sh

# And what the tests run on a mount: pandas, polars, DuckDB, in an environment outside of the checkout;
# pjdfstest and fsx, built once beside it.
test-tools:
	@packaging/tools.sh test
