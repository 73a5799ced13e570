# Two commands matter:
#   make quickstart   installs what is missing, builds, and runs a prompt in a real VM
#   make test         installs what the tests need and runs all of them
# The others are parts of these, or for those who work on the code.

target  := x86_64-unknown-linux-gnu
agent   := target/$(target)/guest/fc-agent
assets  := target/test-assets
helper  := $(assets)/tools/bin/vhost-device-vsock
python  := $(assets)/python
static  := RUSTFLAGS='-C target-feature=+crt-static'

.PHONY: quickstart test unit lint build deb agent assets chaos fuzz clean

quickstart:
	@scripts/install-deps quickstart
	@began=$$(date +%s); \
	$(MAKE) --no-print-directory build && \
	target/release/aetherium quickstart --build-seconds $$(( $$(date +%s) - began ))

# The programs, with the guest's agent beside the host's program.
build: agent
	cargo build --release --locked -p aetherium
	@cp -f $(agent) target/release/fc-agent

# A Debian package with the programs and systemd's units. Needs `cargo install cargo-deb`.
deb: build
	cargo deb --locked -p aetherium --no-build --no-strip

# Static, so that it runs in any guest.
agent:
	$(static) cargo build --locked --profile guest --target $(target) -p fc-agent

test: assets
	cargo test --locked --workspace --no-fail-fast
	AETHERIUM_TEST_FLEET=postgres+redis cargo test --locked -p aetherium-gateway --test gateway
	AETHERIUM_TEST_FLEET=postgres+polling cargo test --locked -p aetherium-gateway --test gateway

# Without VMs: seconds.
unit:
	cargo test --locked --workspace --lib --bins

lint:
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

# What the tests boot: the agent, a template made as a user makes it, a helper for vsock, and a
# stand-in for Firecracker. The programs of assistants. And Helm's engine with Kubernetes' schemas, for
# the tests of deploy/.
assets: agent
	@scripts/install-deps test
	@mkdir -p $(assets)
	@cp -f $(agent) $(assets)/fc-agent
	@test -x $(helper) || cargo install --locked --debug --root $(assets)/tools vhost-device-vsock@0.3.0
	@cmp -s deploy/tests/requirements.txt $(python)/installed || { \
	  rm -rf $(python) && /usr/bin/python3 -m venv $(python) && \
	  $(python)/bin/pip install -q --disable-pip-version-check --no-deps --only-binary :all: \
	    --require-hashes -r deploy/tests/requirements.txt && \
	  cp deploy/tests/requirements.txt $(python)/installed; }
	@scripts/test-assistants $(assets)/assistants
	cargo build --locked -p aetherium -p fake-firecracker
	@cp -f target/debug/fake-firecracker $(assets)/fake-firecracker
	@scripts/test-template target/debug/aetherium $(assets)

# Breaks a fleet on purpose while prompts run in it, and checks what came of them. The same seed breaks the
# same things at the same times. Networks are cut where it runs as root.
SEED ?= 1
MINUTES ?= 5
PROMPTS ?= 2000

chaos: assets
	cargo build --locked -p chaos
	target/debug/chaos --seed $(SEED) --seconds $$(( $(MINUTES) * 60 )) --prompts $(PROMPTS)

# What a caller can send to an agent, led by coverage: FUZZ_SECONDS for each target. Any toolchain.
FUZZ_SECONDS ?= 60
fuzz_flags := --cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
  -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares

fuzz:
	@mkdir -p fuzz/artifacts fuzz/target/found-rpc_messages fuzz/target/found-line_request
	@for it in rpc_messages line_request; do \
	  ( cd fuzz && RUSTFLAGS='$(fuzz_flags)' cargo run --release --target $(target) --bin $$it -- \
	    -artifact_prefix=artifacts/ -max_total_time=$(FUZZ_SECONDS) -max_len=4096 \
	    target/found-$$it corpus/$$it ) || exit 1; \
	done

clean:
	cargo clean
