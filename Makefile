# The commands that people type. Everything they need they fetch themselves.

# Outside the checkout, so that a fresh clone builds on what is there.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/anabranch/target

.PHONY: demo test test-matrix test-large lint bench fuzz

# Starts the services, runs the daemon on the sample shop, kills it twice, compares every row.
# KEEP=1 leaves everything running.
demo:
	@examples/shop/demo

# Starts the services and runs every test, and those of the PostgreSQL connector also on the newest and the oldest version.
test:
	@compose/with-services sh -c 'cargo test --workspace --all-features && tests/matrix 18 14'

# The tests of the PostgreSQL connector on every version that is supported.
test-matrix:
	@compose/with-services --only postgres tests/matrix 14 15 16 17 18

# The memory of transactions of ten million rows and of 1 GB, which `make test` measures at a tenth of that.
test-large:
	@ANABRANCH_TEST_SIZE=full compose/with-services --only postgres cargo test --release -p anabranch-postgres --test footprint

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings

# A release build, measured against what each stage cannot beat. Not a test: it asserts nothing.
bench:
	@compose/with-services benches/run

# The decoders of the stream, and what reads it, fed with nonsense for so many seconds each. The inputs that it has found
# before are in fuzz/corpus, and `make test` runs them too.
FUZZ_SECONDS ?= 60
fuzz:
	@fuzz/run $(FUZZ_SECONDS)
