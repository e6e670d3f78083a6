package jwks

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// newClient returns a client that dials nothing it may not.
func (f *Fetcher) newClient() *http.Client {
	t := &http.Transport{}
	if f.cfg.Transport != nil {
		t = f.cfg.Transport.Clone()
	}
	// A proxy from the environment would do the looking up where it cannot be watched.
	t.Proxy = nil
	t.DialContext = f.dial
	t.DialTLSContext = nil
	t.MaxIdleConnsPerHost = 1
	t.MaxResponseHeaderBytes = 64 << 10
	t.ForceAttemptHTTP2 = true
	return &http.Client{
		Transport: t,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > MaxRedirects {
				return fmt.Errorf("more than %d redirects", MaxRedirects)
			}
			return f.checkURL(req.URL)
		},
	}
}

// dial looks a name up and connects to one of the addresses that may be asked. What is judged is what is dialed.
func (f *Fetcher) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs := []string{host}
	if _, err := netip.ParseAddr(host); err != nil {
		if addrs, err = f.cfg.Resolver.LookupHost(ctx, host); err != nil {
			return nil, err
		}
	}
	var last error
	for _, text := range addrs {
		a, err := netip.ParseAddr(text)
		if err == nil {
			err = f.checkAddress(a)
		}
		if err != nil {
			last = err
			continue
		}
		c, err := f.cfg.Dial(ctx, network, net.JoinHostPort(a.Unmap().String(), port))
		if err == nil {
			return c, nil
		}
		last = err
	}
	if last == nil {
		last = fmt.Errorf("%s has no address", host)
	}
	return nil, last
}

// shared is for carriers' own networks and is used inside clusters; RFC 6598. benchmarks is RFC 2544.
var (
	shared     = netip.MustParsePrefix("100.64.0.0/10")
	benchmarks = netip.MustParsePrefix("198.18.0.0/15")
	thisNet    = netip.MustParsePrefix("0.0.0.0/8")
	// nat64 and sixToFour have an IPv4 address inside, which is judged in their place. RFC 6052, RFC 3056.
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// checkAddress says why an address may not be asked, nil when it may.
func (f *Fetcher) checkAddress(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	raw := a.As16()
	switch {
	case nat64.Contains(a):
		return f.checkAddress(netip.AddrFrom4([4]byte(raw[12:16])))
	case sixToFour.Contains(a):
		return f.checkAddress(netip.AddrFrom4([4]byte(raw[2:6])))
	case a.IsLoopback() && !f.cfg.AllowLoopback:
		return fmt.Errorf("%w: %s is an address of this machine", errRefused, a)
	case a.IsLinkLocalUnicast(), a.IsLinkLocalMulticast(), a.IsInterfaceLocalMulticast():
		return fmt.Errorf("%w: %s is a link-local address", errRefused, a)
	case a.IsMulticast(), a.IsUnspecified(), thisNet.Contains(a):
		return fmt.Errorf("%w: %s is not the address of one machine", errRefused, a)
	case (a.IsPrivate() || shared.Contains(a) || benchmarks.Contains(a)) && !f.cfg.AllowPrivate:
		return fmt.Errorf("%w: %s is a private address; set AMBIT_JWKS_ALLOW_PRIVATE=true to allow these", errRefused, a)
	}
	return nil
}

func (f *Fetcher) checkURL(u *url.URL) error {
	switch {
	case u.Scheme == "http" && !f.cfg.AllowHTTP:
		return fmt.Errorf("%w: %s is not https; set AMBIT_JWKS_ALLOW_HTTP=true to allow that", errRefused, u.Redacted())
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%w: %s is neither https nor http", errRefused, u.Redacted())
	case u.Host == "":
		return fmt.Errorf("%w: %s names no host", errRefused, u.Redacted())
	case u.User != nil:
		return fmt.Errorf("%w: %s has a password in it", errRefused, u.Redacted())
	}
	return nil
}

// fetch gets a key set and makes sure that it is one.
func (f *Fetcher) fetch(ctx context.Context, s Source) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	uri := s.URI
	if uri == "" {
		var err error
		if uri, err = f.discover(ctx, s.Issuer); err != nil {
			return "", err
		}
	}
	body, err := f.get(ctx, uri)
	if err != nil {
		return "", err
	}
	return checkKeys(body)
}

// discover asks an issuer where its keys are. OpenID Connect Discovery 1.0, section 4.
func (f *Fetcher) discover(ctx context.Context, issuer string) (string, error) {
	body, err := f.get(ctx, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	var doc struct {
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("discovery document: %w", err)
	}
	if doc.JWKSURI == "" {
		return "", fmt.Errorf("the discovery document has no jwks_uri")
	}
	return doc.JWKSURI, nil
}

func (f *Fetcher) get(ctx context.Context, uri string) ([]byte, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	if err := f.checkURL(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", u.Redacted(), resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > MaxBody:
		return nil, fmt.Errorf("%s answers with more than %d bytes", u.Redacted(), MaxBody)
	}
	return body, nil
}

// checkKeys makes sure that a text is a key set, and writes it the same way each time: providers order their answers as
// they like, and only a change of keys shall be one.
func checkKeys(body []byte) (string, error) {
	var set struct {
		Keys []map[string]any `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return "", fmt.Errorf("the answer is no key set: %w", err)
	}
	if len(set.Keys) == 0 {
		return "", fmt.Errorf("the answer has no keys")
	}
	for i, k := range set.Keys {
		if _, ok := k["kty"].(string); !ok {
			return "", fmt.Errorf("key %d has no kty", i)
		}
		for _, private := range []string{"d", "k"} {
			if _, ok := k[private]; ok {
				return "", fmt.Errorf("key %d is a private one", i)
			}
		}
	}
	out, err := json.Marshal(set)
	return string(out), err
}
