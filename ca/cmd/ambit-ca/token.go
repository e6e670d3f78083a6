package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/token"
)

// makeKey writes a signing key and the JWKS document that verifies its tokens. A key that is there already is kept:
// tokens signed with it may be in use.
func makeKey(args []string) error {
	fs := flagSet("ambit-ca token-key")
	out := fs.String("out", "", "`file` for the private key (PEM, mode 0600)")
	public := fs.String("jwks", "", "`file` for the public key (JWKS); empty prints it")
	if err := parse(fs, args); err != nil {
		return err
	}
	if *out == "" {
		return fmt.Errorf("%w: --out FILE is needed", errUsage)
	}
	pem, err := os.ReadFile(*out)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, pem, err = token.NewKey(); err != nil {
			return err
		}
		if err := replace(*out, pem, 0o600); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	key, err := token.ParseSigner(pem)
	if err != nil {
		return fmt.Errorf("%s: %w", *out, err)
	}
	jwks, err := token.PublicKeys(key.Public()).JWKS()
	if err != nil {
		return err
	}
	jwks = append(jwks, '\n')
	if *public == "" {
		_, err = os.Stdout.Write(jwks)
		return err
	}
	return replace(*public, jwks, 0o644)
}

// mintToken prints or writes one token.
func mintToken(args []string) error {
	fs := flagSet("ambit-ca token")
	var c token.Claims
	keyFile := fs.String("key", "", "`file` with the private key, made by token-key")
	fs.StringVar(&c.Namespace, "ns", "", "`namespace` of the service account")
	fs.StringVar(&c.ServiceAccount, "sa", "", "service account `name`")
	fs.StringVar(&c.PodName, "pod", "", "pod `name` the token is bound to")
	fs.StringVar(&c.PodUID, "pod-uid", "", "that pod's `uid`")
	fs.StringVar(&c.Node, "node", "", "`node` that pod runs on")
	fs.StringVar(&c.Issuer, "issuer", token.DefaultIssuer, "issuer `URL`")
	audience := fs.String("audience", mesh.TokenAudience, "`audience` the token is meant for")
	ttl := fs.Duration("ttl", 12*time.Hour, "lifetime")
	out := fs.String("out", "", "`file` to write (mode 0600); empty prints")
	if err := parse(fs, args); err != nil {
		return err
	}
	if *keyFile == "" || c.Namespace == "" || c.ServiceAccount == "" {
		return fmt.Errorf("%w: --key, --ns and --sa are needed", errUsage)
	}
	pem, err := os.ReadFile(*keyFile)
	if err != nil {
		return err
	}
	key, err := token.ParseSigner(pem)
	if err != nil {
		return fmt.Errorf("%s: %w", *keyFile, err)
	}
	c.Audiences = []string{*audience}
	c.IssuedAt = time.Now()
	c.Expiry = c.IssuedAt.Add(*ttl)
	raw, err := token.Mint(key, c)
	if err != nil {
		return err
	}
	if *out == "" {
		fmt.Println(raw)
		return nil
	}
	return replace(*out, []byte(raw), 0o600)
}

// replace writes a file in one step: its readers may be running.
func replace(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
