#!/bin/sh
# make check: what a change must pass before any test runs.
set -eu
GO=${GO:-go}

unformatted=$(gofmt -l $(git ls-files '*.go' | grep -v '\.pb\.go$'))
if [ -n "$unformatted" ]; then
	echo "gofmt would change: $unformatted" >&2
	exit 1
fi
echo "ok gofmt"

$GO vet ./...
echo "ok vet"

$GO tool staticcheck ./...
echo "ok staticcheck"

$GO test -count=1 -run '^TestLayout' ./node
echo "ok layout"

# Modules linked into the server must stand in deploy/modules.allow, each with its reason.
$GO list -deps -f '{{with .Module}}{{.Path}}{{end}}' ./cmd/charon | sort -u | grep -v '^github.com/charon-kdc/charon$' >"${TMPDIR:-/tmp}/charon-modules.$$"
trap 'rm -f "${TMPDIR:-/tmp}/charon-modules.$$"' EXIT
refused=$(sed 's/[[:space:]].*//' deploy/modules.allow | grep -v '^#' | sort -u | comm -13 - "${TMPDIR:-/tmp}/charon-modules.$$")
if [ -n "$refused" ]; then
	echo "modules in the server that deploy/modules.allow does not list: $refused" >&2
	exit 1
fi
echo "ok module allow-list"

cgo=$(CGO_ENABLED=0 $GO list -deps -f '{{if .CgoFiles}}{{.ImportPath}}{{end}}' ./cmd/charon)
if [ -n "$cgo" ]; then
	echo "cgo in the default build: $cgo" >&2
	exit 1
fi
echo "ok no cgo"

# The vulnerability data come from the network; where they can't be had, say so and go on.
# It exits with 3 for findings and with 1 for whatever kept it from looking.
status=0
out=$($GO tool govulncheck ./... 2>&1) || status=$?
if [ $status -eq 0 ]; then
	echo "ok govulncheck"
elif [ $status -eq 1 ] && echo "$out" | grep -qiE 'dial|lookup|no such host|connection|fetching|vuln.go.dev'; then
	echo "-- govulncheck: its data can't be had here"
else
	echo "$out" >&2
	exit 1
fi
