package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/table"
)

// authority is the certificate authority's config_dump.
type authority struct {
	TrustDomain   string          `json:"trustDomain"`
	Issuer        authorityCert   `json:"issuer"`
	Intermediates []authorityCert `json:"intermediates"`
	Roots         []authorityCert `json:"roots"`
	Serving       []authorityCert `json:"serving"`
	Warnings      []string        `json:"warnings"`
}

type authorityCert struct {
	Subject  string    `json:"subject"`
	Serial   string    `json:"serialNumber"`
	NotAfter time.Time `json:"expirationTime"`
}

func (a *app) ca() *cobra.Command {
	cmd := parent(&cobra.Command{Use: "ca", Short: "Show what the certificate authority signs with, and replace its root"})
	cmd.AddCommand(a.caStatus(), a.caRoots(), a.caRotate())
	return cmd
}

// caSource says which authority is asked.
type caSource struct{ file, address string }

func (a *app) caFlags(cmd *cobra.Command, s *caSource) {
	cmd.Flags().StringVar(&s.address, "ca-address", "", "the authority's admin endpoint itself: host:port or unix:PATH")
}

func (a *app) authority(ctx context.Context, s caSource) (admin.Endpoint, error) {
	if s.address != "" {
		return admin.Endpoint{What: "certificate authority", Address: s.address}, nil
	}
	list, err := a.parts(ctx, cluster.Authority)
	if err != nil {
		return admin.Endpoint{}, err
	}
	return list[0].Endpoint, nil // all replicas sign with the same key
}

func (a *app) caStatus() *cobra.Command {
	var s caSource
	var f format
	cmd := &cobra.Command{Use: "status", Short: "List the certificates of the authority itself, and what it warns about", Args: none}
	a.caFlags(cmd, &s)
	a.outputFlag(cmd, &f)
	cmd.Flags().StringVarP(&s.file, "file", "f", "", "a saved answer to read instead of asking")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		data, err := a.authorityDump(cmd, s)
		if err != nil {
			return err
		}
		if f.structured() {
			return a.data(f, json.RawMessage(data))
		}
		var d authority
		if err := json.Unmarshal(data, &d); err != nil {
			return fmt.Errorf("%s: %w: %w", cmp.Or(s.file, "certificate authority"), errData, err)
		}
		return a.printAuthority(d)
	}
	return cmd
}

func (a *app) authorityDump(cmd *cobra.Command, s caSource) ([]byte, error) {
	if s.file != "" {
		data, err := os.ReadFile(s.file)
		if err != nil {
			return nil, fmt.Errorf("saved answer: %w", err)
		}
		return data, nil
	}
	e, err := a.authority(cmd.Context(), s)
	if err != nil {
		return nil, err
	}
	in, err := e.Get(cmd.Context(), "/config_dump")
	if err != nil {
		return nil, err
	}
	defer in.Close()
	data, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.What, err)
	}
	return data, nil
}

func (a *app) printAuthority(d authority) error {
	fmt.Fprintf(a.env.Out, "trust domain: %s\n", d.TrustDomain)
	t := &table.Table{Head: []string{"CERTIFICATE", "SUBJECT", "SERIAL NUMBER", "NOT AFTER"}}
	add := func(kind string, list ...authorityCert) {
		for _, c := range list {
			t.Add(kind, c.Subject, c.Serial, c.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	add("Issuer", d.Issuer)
	add("Intermediate", d.Intermediates...)
	add("Root", d.Roots...)
	add("Serving", d.Serving...)
	if err := a.table(t); err != nil {
		return err
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(a.env.Out, "warning: %s\n", w)
	}
	return nil
}

func (a *app) caRoots() *cobra.Command {
	var s caSource
	cmd := &cobra.Command{Use: "roots", Short: "Print the roots that peers are verified with, as PEM", Args: none}
	a.caFlags(cmd, &s)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		e, err := a.authority(cmd.Context(), s)
		if err != nil {
			return err
		}
		in, err := e.Get(cmd.Context(), "/roots")
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(a.env.Out, in)
		return err
	}
	return cmd
}

func (a *app) caRotate() *cobra.Command {
	var s caSource
	cmd := &cobra.Command{Use: "rotate", Short: "Make a new root; the old one stays trusted until it expires", Args: none,
		Long: `Make a new root. The old one stays trusted until it expires, and signs the new one, so that every peer accepts certificates of
both at any time. Only a self-signed root is rotated this way: plugged-in files are replaced by writing new ones.`}
	a.caFlags(cmd, &s)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if s.address == "" {
			if _, err := a.meshToChange(); err != nil {
				return err
			}
		}
		e, err := a.authority(cmd.Context(), s)
		if err != nil {
			return err
		}
		if _, err := e.Post(cmd.Context(), "/rotate"); err != nil {
			return err
		}
		fmt.Fprintln(a.env.Out, "The root is rotated. Certificates of the new one are given out as the old ones are renewed.")
		return nil
	}
	return cmd
}
