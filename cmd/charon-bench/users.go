package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/charon-kdc/charon/kdc/krb5"
	"github.com/charon-kdc/charon/kdc/krb5/client"
	"github.com/charon-kdc/charon/kdc/krb5/kcrypto"
	"github.com/charon-kdc/charon/kdc/krb5/keytab"
)

// tgtsMax bounds how many users get a TGT for tgs: many enough that no cache of the KDC holds one hot key.
const tgtsMax = 256

// user is one client with its long-term key.
type user struct {
	name krb5.PrincipalName
	key  *kcrypto.Key
}

// loadUsers finds every user's key, from keytabs or by string-to-key with the default salt.
func loadUsers(o *options, progress io.Writer) ([]user, error) {
	if len(o.keytabs) > 0 {
		return keytabUsers(o)
	}
	users := make([]user, o.users)
	for i := range users {
		var err error
		if users[i].name, err = userName(o, i); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(progress, "deriving %d keys of %v\n", len(users), o.etype)
	err := parallel(len(users), func(i int) (err error) {
		u := &users[i]
		u.key, err = kcrypto.StringToKey(o.etype, o.password, krb5.DefaultSalt(o.realm, u.name), nil)
		return err
	})
	return users, err
}

func userName(o *options, i int) (krb5.PrincipalName, error) {
	name, _, err := krb5.ParsePrincipal(strings.ReplaceAll(o.user, "%d", fmt.Sprint(i)), o.realm)
	if err != nil {
		return name, fmt.Errorf("--user: %w", err)
	}
	return name, nil
}

// keytabUsers takes the newest key of the enctype for each principal asked for, or for each there is.
func keytabUsers(o *options) ([]user, error) {
	all := &keytab.Keytab{}
	for _, pattern := range o.keytabs {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			return nil, fmt.Errorf("--keytab: no file %s", pattern)
		}
		for _, path := range paths {
			kt, err := keytab.Read(path)
			if err != nil {
				return nil, err
			}
			all.Entries = append(all.Entries, kt.Entries...)
		}
	}
	var names []krb5.PrincipalName
	if o.user != "" {
		for i := range o.users {
			name, err := userName(o, i)
			if err != nil {
				return nil, err
			}
			names = append(names, name)
		}
	} else {
		seen := make(map[string]bool)
		for _, e := range all.Entries {
			if text := e.Name.String(); e.Realm == o.realm && !seen[text] {
				seen[text] = true
				names = append(names, e.Name)
			}
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("--keytab: no principal of realm %s", o.realm)
	}
	users := make([]user, len(names))
	for i, name := range names {
		key, _, ok := all.Find(o.realm, name, 0, o.etype)
		if !ok {
			return nil, fmt.Errorf("--keytab: no key of %v for %v", o.etype, krb5.FormatPrincipal(name, o.realm))
		}
		users[i] = user{name, key}
	}
	return users, nil
}

// login gives TGTs of the first users.
func login(ctx context.Context, o *options, users []user, progress io.Writer) ([]*client.Credential, error) {
	tgts := make([]*client.Credential, min(len(users), tgtsMax))
	fmt.Fprintf(progress, "getting %d ticket-granting tickets\n", len(tgts))
	err := parallel(len(tgts), func(i int) (err error) {
		u := users[i]
		tgts[i], err = client.AS(ctx, client.ASRequest{
			Via:   client.Via{KDCs: o.kdcs, Exchange: client.ExchangeOptions{TCP: o.tcp}},
			Realm: o.realm, Client: u.name, Secret: client.FixedKey(u.key), ETypes: []kcrypto.EType{o.etype},
		})
		if err != nil {
			err = fmt.Errorf("logging %s in: %w", krb5.FormatPrincipal(u.name, o.realm), err)
		}
		return err
	})
	return tgts, err
}

// parallel calls f for 0 to n-1 on every processor and gives the first error.
func parallel(n int, f func(i int) error) error {
	var next atomic.Int64
	var once sync.Once
	var first error
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					once.Do(func() { first = err })
					next.Store(int64(n))
					return
				}
			}
		})
	}
	wg.Wait()
	return first
}
