// Package raftstore replicates the realm over a cluster's nodes: two Raft groups on one TLS port, "realm" (principals,
// policies, settings) and "replay" (the shared replay cache and attempt counters), as DESIGN.md lays down.
//
// It is the only importer of hashicorp/raft. It owns proposing and forwarding, membership, leadership, the freshness
// lease, the replay pipeline, and the kdb.Store and kdb.Proofs that the KDC reads through. It must not know Kerberos
// exchanges, the admin API's rules or how a node is configured.
package raftstore
