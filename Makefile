# Two commands matter:
#   make quickstart   installs what is missing, builds, and runs a prompt in a real VM
#   make test         installs what the tests need and runs all of them
# The others are parts of these, or for those who work on the code.

target  := x86_64-unknown-linux-gnu
agent   := target/$(target)/guest/fc-agent
assets  := target/test-assets
helper  := $(assets)/tools/bin/vhost-device-vsock
static  := RUSTFLAGS='-C target-feature=+crt-static'

.PHONY: quickstart test unit lint build agent assets clean

quickstart:
	@scripts/install-deps quickstart
	@began=$$(date +%s); \
	$(MAKE) --no-print-directory build && \
	target/release/aetherium quickstart --build-seconds $$(( $$(date +%s) - began ))

# The programs, with the guest's agent beside the host's program.
build: agent
	cargo build --release --locked -p aetherium
	@cp -f $(agent) target/release/fc-agent

# Static, so that it runs in any guest.
agent:
	$(static) cargo build --locked --profile guest --target $(target) -p fc-agent

test: assets
	cargo test --locked --workspace --no-fail-fast

# Without VMs: seconds.
unit:
	cargo test --locked --workspace --lib --bins

lint:
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

# What the tests boot: the agent, a template made as a user makes it, a helper for vsock, and a
# stand-in for Firecracker.
assets: agent
	@scripts/install-deps test
	@mkdir -p $(assets)
	@cp -f $(agent) $(assets)/fc-agent
	@test -x $(helper) || cargo install --locked --debug --root $(assets)/tools vhost-device-vsock@0.3.0
	cargo build --locked -p aetherium -p fake-firecracker
	@cp -f target/debug/fake-firecracker $(assets)/fake-firecracker
	@scripts/test-template target/debug/aetherium $(assets)

clean:
	cargo clean
