package realm

import (
	"bytes"
	"fmt"
	"strings"

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
	globMax      = 1024
)

// ListPrincipals returns principals of realm in the order of their NameText, aliases not among them. after is the NameText behind
// which to begin ("" for the start), limit 1 to PageMax (others mean PageMax), match a Glob over NameTexts ("" for all).
// A page may be shorter than limit; next is what to give as after for the following one, "" when there is none. Pages are
// views of their own: a principal written between them may or may not be seen.
func (db *DB) ListPrincipals(realm, after string, limit int, match string) (page []*statev1.Principal, next string, err error) {
	if len(match) > globMax {
		return nil, "", fmt.Errorf("pattern of %d bytes, at most %d", len(match), globMax)
	}
	if limit < 1 || limit > PageMax {
		limit = PageMax
	}
	l := listing{realm: []byte(realm + "\x00"), limit: limit, match: match, after: after}
	l.prefix = globPrefix(match)
	for !l.done {
		if err := db.View(l.scan); err != nil {
			return nil, "", err
		}
	}
	return l.page, l.next, nil
}

type listing struct {
	realm         []byte
	prefix, match string // every match begins with prefix
	limit         int
	after         string
	page          []*statev1.Principal
	pageBytes     int
	next          string
	done          bool
}

// scan goes on behind l.after for up to scanMax keys.
func (l *listing) scan(t *Tx) error {
	c := t.tx.Bucket(bucketNames[principals]).Cursor()
	k, v := c.Seek(append(bytes.Clone(l.realm), max(l.after, l.prefix)...))
	for n := 0; ; n++ {
		text, ofRealm := bytes.CutPrefix(k, l.realm)
		if !ofRealm || !strings.HasPrefix(string(text), l.prefix) && string(text) > l.prefix {
			l.done, l.next = true, ""
			return nil
		}
		if n == scanMax {
			return nil
		}
		if s := string(text); s > l.after {
			if l.match == "" || Glob(l.match, s) {
				if len(l.page) == l.limit || l.pageBytes >= pageBytesMax {
					l.done, l.next = true, l.after
					return nil
				}
				p := new(statev1.Principal)
				if err := decodeRecord(principals, k, v, p); err != nil {
					return err
				}
				l.page, l.pageBytes = append(l.page, p), l.pageBytes+proto.Size(p)
			}
			l.after = s
		}
		k, v = c.Next()
	}
}

// Glob tells whether pattern matches the whole of s, as kadmin's listprincs does: '*' any bytes (a '/' too), '?' one byte, [abc],
// [a-z] and [^a-z] one byte, and a backslash takes the next byte literally. A '[' without end is literal. The time is at most len(pattern)*len(s).
func Glob(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if n, ok := globOne(pattern[p:], s[i]); ok {
			p, i = p+n, i+1
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// globOne matches c with the first element of pattern, which is no star, and returns that element's length.
func globOne(pattern string, c byte) (n int, ok bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	case '[':
		if n := classLen(pattern); n > 0 {
			return n, inClass(pattern[1:n-1], c)
		}
	}
	return 1, pattern[0] == c
}

// classLen is the length of the bracket expression that pattern begins with, 0 when it has no end. A ']' right at the start is a member.
func classLen(pattern string) int {
	start := 1
	if strings.HasPrefix(pattern[start:], "^") {
		start++
	}
	if start >= len(pattern) {
		return 0
	}
	end := strings.IndexByte(pattern[start+1:], ']')
	if end < 0 {
		return 0
	}
	return start + 1 + end + 1
}

func inClass(class string, c byte) bool {
	class, negated := strings.CutPrefix(class, "^")
	in := false
	for i := 0; i < len(class); i++ {
		if i+2 < len(class) && class[i+1] == '-' {
			in = in || class[i] <= c && c <= class[i+2]
			i += 2
			continue
		}
		in = in || class[i] == c
	}
	return in != negated
}

// globPrefix is the literal text that pattern begins with.
func globPrefix(pattern string) string {
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		return pattern[:i]
	}
	return pattern
}
