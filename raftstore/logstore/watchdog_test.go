package logstore

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestAfterRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var called atomic.Int32
		stop := afterRunning(10*time.Second, func() { called.Add(1) })
		time.Sleep(9900 * time.Millisecond)
		if called.Load() != 0 {
			t.Error("called early")
		}
		time.Sleep(200 * time.Millisecond)
		stop()
		if called.Load() != 1 {
			t.Error("not called")
		}
		stop = afterRunning(10*time.Second, func() { called.Add(1) })
		time.Sleep(5500 * time.Millisecond)
		stop()
		time.Sleep(time.Minute)
		if called.Load() != 1 {
			t.Error("called after it was stopped")
		}
	})
}
