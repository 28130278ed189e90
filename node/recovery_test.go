package node

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestRecoveryKit(t *testing.T) {
	text, recipient, err := NewRecoveryKit()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^CHARON-RECOVERY-1(-[A-Z0-9]{4}){14}-[A-Z0-9]{2}$`).MatchString(text) {
		t.Errorf("shape: %s", text)
	}
	for _, form := range []string{text, strings.ToLower(text), strings.ReplaceAll(text, "-", ""), " " + strings.ReplaceAll(text, "-", " ") + "\n"} {
		id, err := ParseRecoveryKit(form)
		if err != nil {
			t.Fatalf("%v", err)
		}
		if id.Recipient().String() != recipient {
			t.Error("another key came back")
		}
	}
	// One mistyped character is found by bech32's checksum.
	for i := len(recoveryPrefix); i < len(text); i++ {
		if text[i] == '-' {
			continue
		}
		c := byte('Q')
		if text[i] == c {
			c = 'P'
		}
		if _, err := ParseRecoveryKit(text[:i] + string(c) + text[i+1:]); !errors.Is(err, ErrRecoveryKit) {
			t.Errorf("mistyped at %d: %v", i, err)
		}
	}
	if _, err := ParseRecoveryKit("AGE-SECRET-KEY-1ABC"); !errors.Is(err, ErrRecoveryKit) {
		t.Errorf("other prefix: %v", err)
	}
}
