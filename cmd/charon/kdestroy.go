package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/charon-kdc/charon/kdc/krb5/client"
)

func newKdestroyCommand() *cobra.Command {
	var cache string
	var all, quietly bool
	cmd := &cobra.Command{
		Use: "kdestroy", Short: "destroy tickets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := client.LoadConfig()
			if err != nil {
				conf = &client.Config{}
			}
			path, err := cachePath(cache, conf)
			if err != nil {
				return krb5Failed(cmd, "kdestroy", err, "resolving ccache")
			}
			switch err := destroy(path); {
			case errors.Is(err, fs.ErrNotExist):
				// MIT says so and still exits with 0.
				if !quietly {
					fmt.Fprintln(cmd.ErrOrStderr(), "kdestroy: No credentials cache found while destroying cache")
				}
			case err != nil:
				return krb5Failed(cmd, "kdestroy", err, "destroying cache")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&cache, "cache", "c", "", "the credential cache")
	f.BoolVarP(&all, "all", "A", false, "all caches: with FILE caches, the one")
	f.BoolVarP(&quietly, "quiet", "q", false, "say nothing when there is none")
	return cmd
}

// destroy overwrites the file with zeros and removes it, as MIT does.
func destroy(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Mode().IsRegular() {
		_, err = io.CopyN(f, zeros{}, st.Size())
	}
	return errors.Join(err, f.Sync(), f.Close(), os.Remove(path))
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
