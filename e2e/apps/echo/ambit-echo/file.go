package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// file is for stories that look at a node's folders, or write there as other programs of the node do.
func file() *cobra.Command {
	c := &cobra.Command{Use: "file", Short: "Read, write, list and remove files"}
	c.AddCommand(
		&cobra.Command{Use: "read FILE", Short: "Print a file", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err == nil {
				_, err = os.Stdout.Write(data)
			}
			return err
		}},
		write(),
		&cobra.Command{Use: "list DIR", Short: "Print the names of a folder's files", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			entries, err := os.ReadDir(args[0])
			for _, e := range entries {
				fmt.Println(e.Name())
			}
			return err
		}},
		&cobra.Command{Use: "remove FILE", Short: "Remove a file", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			return os.Remove(args[0])
		}},
	)
	return c
}

func write() *cobra.Command {
	var until string
	c := &cobra.Command{Use: "write FILE", Short: "Put standard input in the place of a file, at once", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		data, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		tmp := filepath.Join(filepath.Dir(args[0]), "."+filepath.Base(args[0])+".new")
		if err := os.WriteFile(tmp, data, 0o600); err != nil {
			return err
		}
		if err := os.Rename(tmp, args[0]); err != nil || until == "" {
			return err
		}
		start := time.Now()
		for time.Since(start) < 10*time.Second && cmd.Context().Err() == nil {
			if data, err := os.ReadFile(args[0]); err == nil && bytes.Contains(data, []byte(until)) {
				fmt.Println(time.Since(start))
				return nil
			}
			time.Sleep(time.Millisecond)
		}
		return fmt.Errorf("%s does not contain %s after %s", args[0], until, time.Since(start))
	}}
	c.Flags().StringVar(&until, "until", "", "wait until somebody has written this into the file, and print how long that took")
	return c
}
