package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/ambit-mesh/ambit/ca/daemon"
)

var errUsage = errors.New("wrong usage")

// parse runs fs over args and refuses what is left over.
func parse(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%w: unexpected argument %q", errUsage, fs.Arg(0))
	}
	return nil
}

func flagSet(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "%s\nflags of %s:\n", usage, name)
		fs.PrintDefaults()
	}
	return fs
}

// list is a comma separated flag.
type list struct{ to *[]string }

func (l list) String() string {
	if l.to == nil {
		return ""
	}
	return strings.Join(*l.to, ",")
}

func (l list) Set(s string) error {
	*l.to = nil
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l.to = append(*l.to, part)
		}
	}
	return nil
}

// daemonFlags reads environment and flags; flags win.
func daemonFlags(args []string) (daemon.Config, *slog.Logger, error) {
	cfg := daemon.Default()
	if err := cfg.FromEnv(os.Getenv); err != nil {
		return cfg, nil, fmt.Errorf("%w: environment: %w", errUsage, err)
	}
	fs := flagSet("ambit-ca")
	var level slog.Level
	var format string
	fs.StringVar(&cfg.Listen, "listen", cfg.Listen, "TLS `address` to serve CreateCertificate on")
	fs.StringVar(&cfg.Admin, "admin", cfg.Admin, "loopback `address`, or unix:PATH, for /readyz, /metrics, /config_dump and, on a socket, POST /rotate; empty for none")
	fs.StringVar(&cfg.Issuer, "issuer", cfg.Issuer, "`folder` that keeps the self-signed root; made if empty")
	fs.StringVar(&cfg.CACerts, "cacerts", cfg.CACerts, "`folder` of plugged-in files (ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem) to use instead; followed when they change")
	fs.StringVar(&cfg.TrustDomain, "trust-domain", cfg.TrustDomain, "trust `domain` of all identities")
	fs.DurationVar(&cfg.DefaultTTL, "default-ttl", cfg.DefaultTTL, "lifetime of certificates when the request names none")
	fs.DurationVar(&cfg.MaxTTL, "max-ttl", cfg.MaxTTL, "longest lifetime that may be requested")
	fs.DurationVar(&cfg.RootTTL, "root-ttl", cfg.RootTTL, "lifetime of a self-signed root; it is rotated in its last fifth")
	fs.Var(list{&cfg.ServingNames}, "serving-dns", "comma separated DNS `names` and addresses of the authority's own serving certificate")
	fs.Func("serving-cert", "keep tls.crt, tls.key and root-cert.pem for another daemon: `DIR=name,name`; repeatable", func(s string) error {
		dir, err := daemon.ParseServingDir(s)
		cfg.Serving = append(cfg.Serving, dir)
		return err
	})
	fs.StringVar(&cfg.RootsFile, "roots-file", cfg.RootsFile, "`file` to keep equal to the trust bundle")
	fs.StringVar(&cfg.TokenKeys, "token-keys", cfg.TokenKeys, "`file` of public keys (JWKS or PEM) that verify callers' tokens; followed when it changes")
	fs.StringVar(&cfg.TokenIssuer, "token-issuer", cfg.TokenIssuer, "only `issuer` of tokens to accept; empty for any that a trusted key signed")
	fs.Var(list{&cfg.TokenAudiences}, "token-audiences", "comma separated `audiences`, one of which a token must be meant for")
	fs.Var(list{&cfg.TrustedNodeAccounts}, "trusted-node-accounts", "comma separated `namespace/account` list that may ask for the identities of pods on their node")
	fs.StringVar(&cfg.XDSAddress, "xds-address", cfg.XDSAddress, "control plane `address` ([http[s]://]host:port) to learn the placement of pods from")
	fs.StringVar(&cfg.XDSServerName, "xds-server-name", cfg.XDSServerName, "`name` the control plane's certificate must carry, if not the host of its address")
	fs.StringVar(&cfg.XDSRoots, "xds-roots", cfg.XDSRoots, "`file` of roots to verify the control plane with, if not the authority's own")
	fs.StringVar(&cfg.XDSToken, "xds-token", cfg.XDSToken, "`file` with the token to present to the control plane")
	fs.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	fs.StringVar(&format, "log-format", os.Getenv("LOG_FORMAT"), "json, or anything else for text")
	if err := parse(fs, args); err != nil {
		return cfg, nil, err
	}
	if err := cfg.Validate(); err != nil {
		return cfg, nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return cfg, slog.New(slog.NewJSONHandler(os.Stderr, opts)), nil
	}
	return cfg, slog.New(slog.NewTextHandler(os.Stderr, opts)), nil
}
