package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func text(s string) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, s); return err }
}

// files reads an archive.
func files(t *testing.T, archive []byte) (names []string, content map[string]string) {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	content = map[string]string{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, content
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		content[h.Name] = string(data)
	}
}

func TestWrite(t *testing.T) {
	var out bytes.Buffer
	seen := 0
	items := []Item{
		{Path: "slow.txt", Get: func(ctx context.Context, w io.Writer) error {
			fmt.Fprint(w, "half")
			<-ctx.Done()
			return ctx.Err()
		}},
		{Path: "one.txt", Get: text("one")},
		{Path: "../../etc/passwd", Get: text("no")},
		{Path: "long.json", Get: text(strings.Repeat("a", 30))},
		{Path: "long.log", End: true, Get: func(_ context.Context, w io.Writer) error {
			for i := range 10 {
				fmt.Fprintf(w, "line %d\n", i)
			}
			return nil
		}},
		{Path: "gone.txt", Get: func(context.Context, io.Writer) error { return errors.New("who? password=hunter2") }},
		{Path: "previous.log", Optional: true, Get: func(context.Context, io.Writer) error { return errors.New("never ended") }},
		{Path: "big1", Get: text(strings.Repeat("b", 20))},
		{Path: "big2", Get: text(strings.Repeat("c", 20))},
	}
	r, err := Write(t.Context(), &out, items, Options{Root: "r", Workers: 2, ItemBytes: 20, TotalBytes: 80, Patience: 50 * time.Millisecond, Now: time.Unix(1e9, 0),
		Progress: func(done, all int, _ string) {
			if done != seen || all != len(items) {
				t.Errorf("progress %d of %d", done, all)
			}
			seen++
		}})
	if err != nil {
		t.Fatal(err)
	}
	names, content := files(t, out.Bytes())
	for name, want := range map[string]string{
		"r/slow.txt": "half", "r/one.txt": "one", "r/etc/passwd": "no", "r/long.json": strings.Repeat("a", 20), "r/long.log": "\nline 7\nline 8\nline 9\n"[2:], "r/big1": strings.Repeat("b", 20),
	} {
		if got := content[name]; got != want && !(name == "r/long.log" && strings.HasSuffix(got, want) && len(got) == 20) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := strings.Join(names, " "); got != "r/slow.txt r/one.txt r/etc/passwd r/long.json r/long.log r/errors.txt r/index.txt" && !strings.HasPrefix(got, "r/slow.txt r/one.txt r/etc/passwd r/long.json r/long.log r/big1") {
		t.Errorf("order: %s", got)
	}
	for _, want := range []string{"slow.txt: context deadline exceeded", "gone.txt: who? password=(redacted)", "long.json: 10 bytes are left out", "big2: left out"} {
		if !strings.Contains(content["r/errors.txt"], want) {
			t.Errorf("errors.txt has no %q:\n%s", want, content["r/errors.txt"])
		}
	}
	if strings.Contains(content["r/errors.txt"], "previous") || r.Files != len(names) || seen != len(items) || !strings.Contains(content["r/index.txt"], "one.txt") {
		t.Errorf("%+v, progress %d\n%s", r, seen, content["r/index.txt"])
	}
}

// An interrupted report is an archive of what there was.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	items := []Item{{Path: "a", Get: text("a")}, {Path: "b", Get: func(ctx context.Context, _ io.Writer) error { cancel(); <-ctx.Done(); return ctx.Err() }}, {Path: "c", Get: text("c")}}
	if _, err := Write(ctx, &out, items, Options{Workers: 1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, content := files(t, out.Bytes()); content["report/a"] != "a" || !strings.Contains(content["report/errors.txt"], "c: context canceled") {
		t.Errorf("%v", content)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestDiskFull(t *testing.T) {
	items := []Item{}
	for i := range 20 {
		junk := make([]byte, 1<<16)
		_, _ = rand.Read(junk)
		items = append(items, Item{Path: fmt.Sprint(i), Get: text(string(junk))})
	}
	if _, err := Write(t.Context(), full{}, items, Options{}); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Error(err)
	}
}

// TestRedact hides every secret that stands in texts as parts of a mesh write them, and nothing else.
func TestRedact(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("what everybody may read, and is long enough for a second line")})
	inJSON, _ := json.Marshal(map[string]any{"text": string(keyPEM), "bytes": keyPEM, "cert": certPEM})
	secretDER := base64.StdEncoding.EncodeToString(der)[20:60]
	jwt := "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
	for _, c := range []struct{ in, secret, stays string }{
		{string(keyPEM) + "after", secretDER, "after"},
		{string(keyPEM[:len(keyPEM)/2]), secretDER, ""},
		{string(inJSON), secretDER, string(base64.StdEncoding.EncodeToString(certPEM))},
		{string(inJSON), base64.StdEncoding.EncodeToString(keyPEM)[40:80], `"cert"`},
		{"GET /x?access_token=" + jwt + "&page=2 HTTP/1.1", "c2lnbmF0", "page=2"},
		{`{"token": "` + jwt + `", "next": 1}`, "eyJzdWIi", `"next": 1`},
		{"Authorization: Bearer abcdef123456 rest", "abcdef123456", "rest"},
		{`"authorization":"bearer lowercaseonly"}`, "lowercaseonly", "}"},
		{"told Bearer abcdefghij1 twice", "abcdefghij1", "twice"},
		{"authorization=basic dXNlcjpwYXNz", "dXNlcjpwYXNz", ""},
		{`level=info password="hun ter2" user=joe`, "hun ter2", "user=joe"},
		{`{"db_password": "hunter2", "x": "y"}`, "hunter2", `"x": "y"`},
		{`"{\"client_secret\": \"hunter2\", \"a\": 1}"`, "hunter2", `\"a\": 1`},
		{"DB.PASSWORD=hunter2;ssl=true", "hunter2", "ssl=true"},
		{`x-api-key: hunter2`, "hunter2", ""},
		{"set-cookie: session=hunter2; Path=/", "hunter2", "Path=/"},
		{`{"kty":"EC","crv":"P-256","x":"abcdefghijklmnopqrstuvwxyz0123456789","d":"zyxwvutsrqponmlkjihgfedcba9876543210"}`, "zyxwvuts", "abcdefghijkl"},
	} {
		got := string(Redact([]byte(c.in)))
		if strings.Contains(got, c.secret) || !strings.Contains(got, c.stays) || !strings.Contains(got, hidden) {
			t.Errorf("%s\nis %s", c.in, got)
		}
		if json.Valid([]byte(c.in)) && !json.Valid([]byte(got)) {
			t.Errorf("no JSON any more: %s", got)
		}
	}
	for _, s := range []string{
		`{"cookie": {"name": "session", "ttl": "0s"}}`, "basic authorization fails", "the bearer is unknown", `src.identity="spiffe://cluster.local/ns/a/sa/token"`,
		"access connection complete", `"httpCookie":{"name":"u"}`, "istio.io/use-waypoint: waypoint", string(certPEM),
	} {
		if got := string(Redact([]byte(s))); got != s {
			t.Errorf("%q is made %q", s, got)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("-----BEGIN PRIVATE KEY-----\nabc", "password=x")
	f.Fuzz(func(t *testing.T, a, b string) {
		in := a + "\n-----BEGIN EC PRIVATE KEY-----\nhunter2secret\n-----END EC PRIVATE KEY-----\n" + b
		if got := Redact([]byte(in)); !strings.Contains(a+b, "hunter2secret") && bytes.Contains(got, []byte("hunter2secret")) {
			t.Errorf("%q", got)
		}
	})
}

func TestKeep(t *testing.T) {
	var o Object
	load := func(s string) Object {
		o = nil
		if err := json.Unmarshal([]byte(s), &o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	show := func(o Object) string { b, _ := json.Marshal(o); return string(b) }
	secret := `{"kind":"Secret","metadata":{"name":"s","managedFields":[1],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"hunter2","a":"b"}},"data":{"key":"aHVudGVyMg=="},"stringData":{"x":"hunter2"}}`
	pod := `{"kind":"Pod","metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i","command":["x","hunter2"],"env":[{"name":"A","value":"hunter2"},{"name":"B","valueFrom":{"fieldRef":1}}],"readinessProbe":{"exec":{"command":["hunter2"]},"periodSeconds":1}}],"volumes":[{"hostPath":"hunter2"}]}}`
	deploy := `{"kind":"Deployment","spec":{"template":{"spec":{"containers":[{"env":[{"name":"TOKEN","value":"hunter2"},{"name":"CLUSTER_ID","value":"Kubernetes"}]}]}}}}`
	for _, own := range []bool{true, false} {
		for _, s := range []string{secret, deploy} {
			if got := show(Keep(load(s), own)); strings.Contains(got, "hunter2") || strings.Contains(got, "aHVudGVyMg") || strings.Contains(got, "managedFields") {
				t.Errorf("own %v: %s", own, got)
			}
		}
	}
	if got := show(Keep(load(deploy), false)); !strings.Contains(got, `"Kubernetes"`) {
		t.Error(got)
	}
	if got := show(Keep(load(pod), false)); strings.Contains(got, "hunter2") || !strings.Contains(got, `"periodSeconds":1`) || !strings.Contains(got, `"nodeName":"n"`) {
		t.Error(got)
	}
	if !strings.Contains(show(o), "hunter2") {
		t.Error("the object itself was changed")
	}
	if got := show(Keep(load(`{"kind":"ConfigMap","data":{"a":"hunter2"}}`), false)); strings.Contains(got, "hunter2") {
		t.Error(got)
	}
	if got := show(Keep(load(`{"kind":"ConfigMap","data":{"a":"mesh: x"}}`), true)); !strings.Contains(got, "mesh: x") {
		t.Error(got)
	}
}
