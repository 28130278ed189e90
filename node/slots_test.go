package node

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// Silent connections, as many as the health port has places, keep no health check out.
func TestSilentConnectionsKeepNoHealthCheckOut(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }), slog.New(slog.DiscardHandler))
	limited := evicting(ln, 16, 8)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(limited) }()
	defer func() { _ = srv.Close(); <-done }()
	var silent []net.Conn
	for i := range 40 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(i%5), 9)}}
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	client := http.Client{Timeout: 5 * time.Second}
	for range 5 {
		resp, err := client.Get("http://" + ln.Addr().String() + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	within(t, 10*time.Second, "the oldest to be closed", func() error {
		_ = silent[0].SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := silent[0].Read(make([]byte, 1)); err != io.EOF {
			return err
		}
		return nil
	})
}
