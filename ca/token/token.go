// Package token verifies, and for labs and virtual machines mints, signed tokens shaped like Kubernetes' bound service
// account tokens: a JWT that says which service account its bearer is, and in which pod on which node.
//
// It knows signatures and claims. It does not know whether a pod still lives (a placement's business) nor what the bearer
// may do (the server's). It starts no goroutines. Start reading at Verifier.Verify.
package token

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Claims is what a token says of its bearer.
type Claims struct {
	Namespace         string
	ServiceAccount    string
	ServiceAccountUID string
	// Pod and Node are empty in a token that is not bound to a pod.
	PodName, PodUID string
	Node, NodeUID   string

	Issuer    string
	Audiences []string
	IssuedAt  time.Time
	NotBefore time.Time
	Expiry    time.Time
}

// DefaultIssuer is the issuer Mint writes when Claims name none.
const DefaultIssuer = "https://ambit.local"

// maxToken bounds what is parsed; a cluster's own tokens are about 1 KiB.
const maxToken = 16 << 10

// leeway is how far the clocks of the minting and the verifying machine may differ.
const leeway = 30 * time.Second

// ErrInvalid is wrapped by every refusal of Verify.
var ErrInvalid = errors.New("token refused")

// body is the JSON of the claims. Kubernetes' pkg/serviceaccount claims.go privateClaims.
type body struct {
	jwt.Claims
	Kubernetes bound `json:"kubernetes.io"`
}

type bound struct {
	Namespace      string `json:"namespace,omitempty"`
	Pod            *ref   `json:"pod,omitempty"`
	Node           *ref   `json:"node,omitempty"`
	ServiceAccount *ref   `json:"serviceaccount,omitempty"`
}

type ref struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

func (r *ref) get() (name, uid string) {
	if r == nil {
		return "", ""
	}
	return r.Name, r.UID
}

// subjectPrefix starts the subject of every service account. Kubernetes' serviceaccount.MakeUsername.
const subjectPrefix = "system:serviceaccount:"

// Mint signs c with key. Empty fields become: the default issuer, the audience of the mesh's proxies, valid from now.
func Mint(key crypto.Signer, c Claims) (string, error) {
	if c.Namespace == "" || c.ServiceAccount == "" {
		return "", errors.New("mint token: namespace and service account are needed")
	}
	if c.Issuer == "" {
		c.Issuer = DefaultIssuer
	}
	if len(c.Audiences) == 0 {
		c.Audiences = []string{mesh.TokenAudience}
	}
	if c.IssuedAt.IsZero() {
		c.IssuedAt = time.Now()
	}
	if c.NotBefore.IsZero() {
		c.NotBefore = c.IssuedAt
	}
	if !c.Expiry.After(c.IssuedAt) {
		return "", errors.New("mint token: it would expire before it is issued")
	}
	alg, err := algorithm(key.Public())
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: keyID(key.Public())}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	b := body{Claims: jwt.Claims{
		Issuer: c.Issuer, Subject: subjectPrefix + c.Namespace + ":" + c.ServiceAccount, Audience: c.Audiences,
		IssuedAt: jwt.NewNumericDate(c.IssuedAt), NotBefore: jwt.NewNumericDate(c.NotBefore), Expiry: jwt.NewNumericDate(c.Expiry),
	}, Kubernetes: bound{Namespace: c.Namespace, ServiceAccount: &ref{c.ServiceAccount, c.ServiceAccountUID}}}
	if c.PodName != "" {
		b.Kubernetes.Pod = &ref{c.PodName, c.PodUID}
	}
	if c.Node != "" {
		b.Kubernetes.Node = &ref{c.Node, c.NodeUID}
	}
	return jwt.Signed(signer).Claims(b).Serialize()
}

// Verifier checks tokens against a set of public keys.
type Verifier struct {
	// Keys returns the keys trusted at the moment. A File's Keys method is one.
	Keys func() (*Keys, error)
	// Audiences: a token must be meant for one of them. None means mesh.TokenAudience.
	Audiences []string
	// Issuer, if set, is the only accepted issuer.
	Issuer string
}

// Verify checks signature, audience and times at now, and that the parts of the token agree with each other.
func (v *Verifier) Verify(raw string, now time.Time) (Claims, error) {
	c, err := v.verify(raw, now)
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return c, nil
}

func (v *Verifier) verify(raw string, now time.Time) (Claims, error) {
	if len(raw) > maxToken {
		return Claims{}, fmt.Errorf("%d bytes long, more than the %d a token may have", len(raw), maxToken)
	}
	parsed, err := jwt.ParseSigned(raw, algorithms)
	if err != nil {
		return Claims{}, fmt.Errorf("not a signed JWT: %w", err)
	}
	if len(parsed.Headers) != 1 {
		return Claims{}, fmt.Errorf("%d signatures, want one", len(parsed.Headers))
	}
	keys, err := v.Keys()
	if err != nil {
		return Claims{}, err
	}
	b, err := keys.open(parsed)
	if err != nil {
		return Claims{}, err
	}
	return v.check(b, now)
}

// check judges the claims of a token whose signature is good.
func (v *Verifier) check(b *body, now time.Time) (Claims, error) {
	if b.Expiry == nil {
		return Claims{}, errors.New("it never expires, which is not allowed")
	}
	expiry := b.Expiry.Time()
	switch {
	case now.After(expiry.Add(leeway)):
		return Claims{}, fmt.Errorf("expired at %s", expiry.UTC().Format(time.RFC3339))
	case b.NotBefore != nil && now.Add(leeway).Before(b.NotBefore.Time()):
		return Claims{}, fmt.Errorf("valid only from %s; compare the clocks", b.NotBefore.Time().UTC().Format(time.RFC3339))
	case b.IssuedAt != nil && now.Add(leeway).Before(b.IssuedAt.Time()):
		return Claims{}, fmt.Errorf("issued at %s, which is in the future; compare the clocks", b.IssuedAt.Time().UTC().Format(time.RFC3339))
	case v.Issuer != "" && b.Issuer != v.Issuer:
		return Claims{}, fmt.Errorf("issued by %q, want %q", b.Issuer, v.Issuer)
	}
	want := v.Audiences
	if len(want) == 0 {
		want = []string{mesh.TokenAudience}
	}
	if !slices.ContainsFunc(want, b.Audience.Contains) {
		return Claims{}, fmt.Errorf("meant for audience %q, want %q", []string(b.Audience), want)
	}
	ns, sa, ok := strings.Cut(strings.TrimPrefix(b.Subject, subjectPrefix), ":")
	if !ok || !strings.HasPrefix(b.Subject, subjectPrefix) || ns == "" || sa == "" || strings.Contains(sa, ":") {
		return Claims{}, fmt.Errorf("subject %q is not a service account", b.Subject)
	}
	c := Claims{Namespace: ns, ServiceAccount: sa, Issuer: b.Issuer, Audiences: b.Audience, Expiry: expiry}
	if b.IssuedAt != nil {
		c.IssuedAt = b.IssuedAt.Time()
	}
	if b.NotBefore != nil {
		c.NotBefore = b.NotBefore.Time()
	}
	var bound string
	bound, c.ServiceAccountUID = b.Kubernetes.ServiceAccount.get()
	c.PodName, c.PodUID = b.Kubernetes.Pod.get()
	c.Node, c.NodeUID = b.Kubernetes.Node.get()
	if b.Kubernetes.Namespace != "" && b.Kubernetes.Namespace != ns || bound != "" && bound != sa {
		return Claims{}, fmt.Errorf("subject %q disagrees with the kubernetes.io claim (%s/%s)", b.Subject, b.Kubernetes.Namespace, bound)
	}
	return c, nil
}
