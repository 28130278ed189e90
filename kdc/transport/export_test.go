package transport

import "net/netip"

// SendAs sends one datagram from the server's own port: what an attacker does who forges a source address.
func (s *Server) SendAs(b []byte, to netip.AddrPort) error {
	_, err := s.udp[0].conn.WriteToUDPAddrPort(b, to)
	return err
}
