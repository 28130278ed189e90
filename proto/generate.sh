#!/bin/sh
# Generates the Go code of every .proto file beside it. protoc comes from Debian's protobuf-compiler, the plugins from go.mod's tools.
set -eu
cd "$(dirname "$0")"
command -v protoc >/dev/null || { echo "protoc is missing: apt install protobuf-compiler" >&2; exit 1; }
plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
go build -o "$plugins" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
PATH=$plugins:$PATH protoc -I . \
	--go_out=.. --go_opt=module=github.com/charon-kdc/charon \
	--go-grpc_out=.. --go-grpc_opt=module=github.com/charon-kdc/charon \
	$(find . -name '*.proto' -printf '%P\n' | sort)
