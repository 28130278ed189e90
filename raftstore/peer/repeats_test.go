package peer

import (
	"fmt"
	"testing"
	"time"
)

func TestRepeats(t *testing.T) {
	var r Repeats
	t0 := time.Unix(1_000_000, 0)
	told, leftOut := 0, 0
	for s := range 150 { // once a second
		if news, left := r.News("a", t0.Add(time.Duration(s)*time.Second)); news {
			told++
			leftOut += left
		}
	}
	if told != 3 || leftOut != 118 {
		t.Errorf("150 lines: %d told, %d said to be left out", told, leftOut)
	}
	now := t0.Add(150 * time.Second)
	if news, _ := r.News("b", now); !news {
		t.Error("another key is no news")
	}
	if news, left := r.News("a", now.Add(repeatQuiet)); !news || left != 29 {
		t.Errorf("after a pause: news %v, %d left out", news, left)
	}
}

func TestRepeatsBound(t *testing.T) {
	var r Repeats
	now := time.Unix(1_000_000, 0)
	told := 0
	for i := range 10 * repeatsMax {
		if news, _ := r.News(fmt.Sprint("k", i), now); news {
			told++
		}
	}
	if told != repeatsMax+1 || len(r.seen) != repeatsMax+1 {
		t.Errorf("%d told, %d held", told, len(r.seen))
	}
	if news, _ := r.News("later", now.Add(repeatEvery)); !news || len(r.seen) != 1 {
		t.Errorf("room again after a minute: news %v, %d held", news, len(r.seen))
	}
}
