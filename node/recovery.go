package node

import (
	"errors"
	"fmt"
	"strings"

	"filippo.io/age"
)

// The recovery kit is an age identity (X25519): what backups are encrypted to. It is shown once and kept by people, so it is
// written in capitals and in groups of four. bech32's own checksum stays part of it.
const (
	recoveryPrefix = "CHARON-RECOVERY-1-"
	agePrefix      = "AGE-SECRET-KEY-1"
)

// ErrRecoveryKit says that a text is no recovery kit, or was mistyped.
var ErrRecoveryKit = errors.New("not a recovery kit, or mistyped")

// NewRecoveryKit makes a kit: the text to be shown once, and the age recipient that the realm keeps.
func NewRecoveryKit() (text, recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("making the recovery kit: %w", err)
	}
	data := strings.TrimPrefix(id.String(), agePrefix)
	var b strings.Builder
	for i, r := range data {
		if i > 0 && i%4 == 0 {
			b.WriteByte('-')
		}
		b.WriteRune(r)
	}
	return recoveryPrefix + b.String(), id.Recipient().String(), nil
}

// ParseRecoveryKit is the age identity of a kit's text. Case, blanks and the dashes do not matter.
func ParseRecoveryKit(text string) (*age.X25519Identity, error) {
	clean := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' || r == '\n' || r == '\r' || r == '\t' {
			return -1
		}
		return r
	}, strings.ToUpper(text))
	data, ok := strings.CutPrefix(clean, strings.ReplaceAll(recoveryPrefix, "-", ""))
	if !ok {
		return nil, fmt.Errorf("%w: it begins with %s", ErrRecoveryKit, recoveryPrefix)
	}
	id, err := age.ParseX25519Identity(agePrefix + data)
	if err != nil {
		return nil, ErrRecoveryKit // age's words could repeat the text
	}
	return id, nil
}
