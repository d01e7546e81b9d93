# `make check` before a commit; `make test` is what CI runs.
.PHONY: check test sim fuzz e2e interop bench lint vuln

check: lint
	go vet ./... && go test ./...

test:
	./scripts/test

sim: # long runs of the simulator, with many seeds
	NATLAB_SEEDS=1000 go test -count=1 -timeout 60m ./nattest/... ./turn/... ./rtmfp/... ./rendezvous

fuzz: # FUZZTIME=5m make fuzz
	./scripts/fuzz $${FUZZTIME:-1m}

e2e: # as root, with iproute2 and nftables
	go test -tags e2e -p 1 -count=1 ./...

interop: # as root, with coturn; scripts/interop-rtmfp has the RTMFP programs that Debian does not
	go test -tags e2e -p 1 -count=1 -v -run 'Coturn|Pion|Uclient|DiscoveryWithTwo|RelayIsTried|RecordedExchanges' ./stun ./turn/... ./rtmfp/flash ./cmd/...

bench: # as root, with coturn, on a quiet machine; writes docs/benchmarks.md
	go build -o build/stile ./cmd/stile && go build -o build/stilebench ./cmd/stilebench
	./build/stilebench compare --title "The socket engine" --server-cmd "socket={stile} --turn.engine socket --turn.offload off" --markdown docs/benchmarks.md
	./build/stilebench compare --title "The kernel engine" --server-cmd "kernel={stile} --turn.engine kernel --turn.offload off" \
		--relay-ports 1024-65535 --memory-allocations 50000 --markdown docs/benchmarks.md
	./build/stilebench compare --title "The kernel engine with its offload" --server-cmd "offload={stile} --turn.engine kernel" \
		--napi threaded --modes channel,indication --memory-allocations 0 --fixed-rate 0 --markdown docs/benchmarks.md
	./build/stilebench stun --markdown docs/benchmarks.md

lint:
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2 run ./...

vuln: # needs the network
	go run golang.org/x/vuln/cmd/govulncheck@latest ./...
