# The two commands of the README are `make demo` and `make test`.

CARGO ?= cargo
PROFILE ?= release

.PHONY: demo test test-page test-garage bench lint build install tools test-tools

# Shows the whole idea in a minute, and checks every step of it.
demo: tools
	$(CARGO) run --profile $(PROFILE) --locked -- demo

# Unit, model and conformance tests, and real mounts.
test: test-tools
	$(CARGO) test --locked --no-fail-fast

# The server's page in a real browser. Installs Chromium where there is none, which is large.
test-page:
	@packaging/tools.sh page
	$(CARGO) test --locked --test page -- --include-ignored

# The same promises against a real object store. Builds Garage where there is none, which takes minutes.
test-garage: test-tools
	garage="$$(packaging/garage.sh)" && LARDER_GARAGE="$$garage" $(CARGO) test --locked --test garage -- --include-ignored

# The server against a stand-in of an FXCACHE server, in one run.
bench: test-tools
	$(CARGO) bench --locked --bench fxcache

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

build:
	$(CARGO) build --release --locked

PREFIX ?= /usr/local
install: build
	target="$${CARGO_TARGET_DIR:-target}"; install -Dm755 "$$target/release/larder" "$(DESTDIR)$(PREFIX)/bin/larder"

# What a mount needs of the system, installed where it is missing.
tools:
	@packaging/tools.sh

# And what the tests run on a mount: pandas, polars, DuckDB, in an environment outside of the checkout.
test-tools:
	@packaging/tools.sh test
