# remora: build, demo, test, lint. On Debian 12, as root, with rustup's stable toolchain (see README.md).
#
# Build results and what the tests prepare lie outside the checkout: in REMORA_CACHE, by default ~/.cache/remora.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

cache := $(or $(REMORA_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME)/remora),$(HOME)/.cache/remora)
export REMORA_CACHE := $(cache)
export CARGO_TARGET_DIR ?= $(cache)/target
built := $(CARGO_TARGET_DIR)/release
tools := $(cache)/tools
export PATH := $(tools)/bin:$(PATH)

# Without what tells of make's job server: cargo would look for that, in vain.
cargo := env --unset=MAKEFLAGS --unset=MFLAGS cargo

# How long `make fuzz` spends on each target.
FUZZ_SECONDS ?= 600
# What components are built for.
guests := wasm32-unknown-unknown
CARGO_DENY := 0.20.2
VERSITYGW := v1.8.0
KOPIA := v0.22.3

.PHONY: help build build-tests image demo test test-crates test-libvirt test-kubernetes test-cluster lint bench fuzz setup setup-apiserver setup-cluster setup-deny setup-s3 setup-kopia setup-languages

help:
	@echo 'make demo    back up a running VM, let it change, restore both points, compare every byte'
	@echo 'make test    all tests: the four tiers that follow'
	@echo 'make test-crates      the tests of each crate'
	@echo 'make test-libvirt     against real libvirt, QEMU, guests and S3'
	@echo 'make test-kubernetes  against a real API server of Kubernetes'
	@echo 'make test-cluster     on a real cluster with KubeVirt'
	@echo 'make build   the programs, in target/release'
	@echo 'make image   the image for Kubernetes, in target/release/remora-image.tar'
	@echo 'make lint    formatting, clippy, licenses, documentation'
	@echo 'make bench   measure, and write docs/benchmarks.md'
	@echo 'make fuzz    fuzz each parser for FUZZ_SECONDS=$(FUZZ_SECONDS) (needs the nightly toolchain and cargo-fuzz)'
	@echo 'make setup   only install the packages that the others need'

# The built-in policies are components: agent/plugins/build.rs builds them for this target.
setup:
	@tests/install-packages
	@[ -d "$$(rustc --print sysroot)/lib/rustlib/$(guests)" ] || rustup target add $(guests)

# The S3 server of the tests. Needs Go 1.21 or later, which fetches the version that it is written for.
setup-s3:
	@export PATH="$$PATH:/usr/local/go/bin" && \
	    go version -m '$(tools)/bin/versitygw' 2>/dev/null | grep --quiet 'versitygw	$(VERSITYGW)	' || \
	    GOBIN='$(tools)/bin' go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW)

# What plugins in JavaScript, Python and Go are built with. Needs Go 1.24 or later beside it. A minute the first time.
setup-languages: setup
	@tests/languages/install '$(cache)'

# Kubernetes: the API server of the tests, and the rest of it for a cluster.
setup-apiserver: setup
	@tests/cluster/build '$(cache)' kubernetes > /dev/null

# The same with KubeVirt. Minutes the first time, nothing when it is there.
setup-cluster: setup
	@tests/cluster/build '$(cache)' > /dev/null

# What the benchmarks compare with, beside restic. From a module of its own: `go install` of a version would also ask for
# the list of all versions, which not every proxy has.
setup-kopia:
	@export PATH="$$PATH:/usr/local/go/bin" && \
	    if ! go version -m '$(tools)/bin/kopia' 2>/dev/null | grep --quiet 'kopia/kopia	$(KOPIA)	'; then \
	        dir=$$(mktemp --directory) && trap 'rm -r "$$dir"' EXIT && cd "$$dir" && go mod init tools 2>/dev/null && \
	        go mod edit -require=github.com/kopia/kopia@$(KOPIA) && \
	        GOBIN='$(tools)/bin' go install -mod=mod -tags nohtmlui github.com/kopia/kopia; \
	    fi

# Leaves the programs in target/release of the checkout, wherever they are built; with the lists of their sources, by
# which the tests know a program that is too old. One test with them: cargo then takes all dependencies with the features
# that tests need, as `make test` does, instead of building most of them twice.
build: setup
	$(cargo) build --locked --release --workspace --bins --test kubernetes
	@mkdir -p target/release
	@if ! [ '$(built)' -ef target/release ]; then \
	    find '$(built)' -maxdepth 1 -type f -executable | while read -r program; do \
	        ! [ -f "$$program.d" ] || \
	            cp --preserve=timestamps --remove-destination "$$program" "$$program.d" target/release/; \
	    done; \
	fi

# Without a registry of images, from Debian's packages and the programs.
image: build
	deploy/image/build --programs '$(built)' target/release/remora-image.tar

demo: build
	'$(built)/demo'

# What tests need; setup-cluster does all that setup-apiserver does.
prepared := build setup-s3 setup-apiserver setup-cluster setup-languages

# Every tier, three of them at a time. Tests wait for guests and servers more than they work: so there are more of them at a time
# than a small machine has processors. All is prepared before, also beside each other, for cargo lets nobody in while it builds; and
# then taken to be there, so that the longest tiers begin at once, and the last when the first of them is through.
test:
	$(MAKE) --jobs=3 build-tests setup-s3 setup-cluster setup-languages
	@echo 'Four tiers run now, three at a time; what each of them says comes when it is through.'
	$(MAKE) --jobs=3 --keep-going --output-sync=target $(prepared:%=--old-file=%) \
	    test-cluster test-libvirt test-kubernetes test-crates

build-tests: build
	$(cargo) test --locked --release --workspace --no-run
	$(cargo) test --locked --release --workspace --no-run --test suite --test kubernetes --test cluster

test-crates: build setup-s3
	$(cargo) test --locked --release --workspace --no-fail-fast -- --test-threads=4

test-libvirt: build setup-s3 setup-languages
	$(cargo) test --locked --release --workspace --test suite -- --test-threads=4

test-kubernetes: build setup-s3 setup-apiserver
	$(cargo) test --locked --release --workspace --test kubernetes -- --test-threads=4

# Its machines boot slowly beside each other: two at a time, however many processors there are.
test-cluster: build setup-s3 setup-cluster
	$(cargo) test --locked --release --workspace --test cluster -- --test-threads=2

bench: build setup-s3 setup-kopia setup-cluster
	'$(built)/bench'

lint: setup setup-deny
	$(cargo) fmt --all --check
	$(cargo) fmt --all --check --manifest-path policies/Cargo.toml
	$(cargo) clippy --locked --release --workspace --all-targets -- -D warnings
	$(cargo) clippy --locked --release --workspace --test suite --test kubernetes --test cluster -- -D warnings # `test = false` leaves them out.
	$(cargo) clippy --locked --release --workspace --manifest-path policies/Cargo.toml --target $(guests) \
	    --target-dir '$(built)/policies' -- -D warnings
	$(cargo) deny --locked --workspace check bans licenses sources
	$(cargo) deny --locked --manifest-path policies/Cargo.toml --config deny.toml --workspace check bans licenses sources
	RUSTDOCFLAGS=-Dwarnings $(cargo) doc --locked --release --workspace --no-deps

# Unoptimised: it runs for a second and takes minutes to build.
setup-deny:
	@[ "$$(cargo deny --version 2>/dev/null)" = 'cargo-deny $(CARGO_DENY)' ] || \
	    cargo install --quiet --locked --debug --root '$(tools)' --target-dir '$(cache)/tools/target' cargo-deny@$(CARGO_DENY)

fuzz: setup
	cd fuzz && for target in $$(cargo +nightly fuzz list); do \
	    mkdir -p "corpus/$$target"; \
	    cargo +nightly fuzz run "$$target" "corpus/$$target" "seeds/$$target" -- -max_total_time=$(FUZZ_SECONDS); \
	done
