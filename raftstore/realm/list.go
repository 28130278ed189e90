package realm

import (
	"bytes"

	"google.golang.org/protobuf/proto"

	statev1 "github.com/charon-kdc/charon/proto/charon/state/v1"
)

const (
	// PageMax bounds a page of ListPrincipals.
	PageMax = 1000
	// scanMax is how many keys one read transaction looks at.
	scanMax = 10_000
	// pageBytesMax ends a page early, in bytes of records.
	pageBytesMax = 2 << 20
)

// ListPrincipals returns principals of realm in the order of their NameText, aliases not among them. after is the NameText behind
// which to begin ("" for the start), limit 1 to PageMax (others mean PageMax).
// A page may be shorter than limit; next is what to give as after for the following one, "" when there is none. Pages are
// views of their own: a principal written between them may or may not be seen.
func (db *DB) ListPrincipals(realm, after string, limit int) (page []*statev1.Principal, next string, err error) {
	if limit < 1 || limit > PageMax {
		limit = PageMax
	}
	l := listing{realm: []byte(realm + "\x00"), limit: limit, after: after}
	for !l.done {
		if err := db.View(func(t *Tx) error { return db.guarded(func() error { return l.scan(t) }) }); err != nil {
			return nil, "", err
		}
	}
	return l.page, l.next, nil
}

type listing struct {
	realm     []byte
	limit     int
	after     string
	page      []*statev1.Principal
	pageBytes int
	next      string
	done      bool
}

// scan goes on behind l.after for up to scanMax keys.
func (l *listing) scan(t *Tx) error {
	c := t.tx.Bucket(bucketNames[principals]).Cursor()
	k, v := c.Seek(append(bytes.Clone(l.realm), l.after...))
	for n := 0; ; n++ {
		text, ofRealm := bytes.CutPrefix(k, l.realm)
		if !ofRealm {
			l.done, l.next = true, ""
			return nil
		}
		if n == scanMax {
			return nil
		}
		if s := string(text); s > l.after {
			if len(l.page) == l.limit || l.pageBytes >= pageBytesMax {
				l.done, l.next = true, l.after
				return nil
			}
			p := new(statev1.Principal)
			if err := decodeRecord(principals, k, v, p); err != nil {
				return err
			}
			l.page, l.pageBytes = append(l.page, p), l.pageBytes+proto.Size(p)
			l.after = s
		}
		k, v = c.Next()
	}
}
