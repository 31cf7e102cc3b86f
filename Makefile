# The commands that people type. Everything they need they fetch themselves.

# Outside the checkout, so that a fresh clone builds on what is there.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/anabranch/target

.PHONY: demo test lint bench

# Starts the services, runs the daemon on the sample shop, kills it twice, compares every row.
# KEEP=1 leaves everything running.
demo:
	@examples/shop/demo

# Starts the services and runs every test.
test:
	@compose/with-services cargo test --workspace --all-features

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings

# A release build, measured against what each stage cannot beat. Not a test: it asserts nothing.
bench:
	@compose/with-services benches/run
