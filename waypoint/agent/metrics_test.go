package agent

import (
	"compress/gzip"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
)

// Who says that it takes gzip gets it, and everybody gets the same text.
func TestCompressed(t *testing.T) {
	text := strings.Repeat(`istio_requests_total{reporter="waypoint",response_code="200"} 1`+"\n", 1000)
	for accept, want := range map[string]bool{
		"gzip": true, "deflate, gzip;q=0.8": true, "gzip; q=0": false, "gzip;q=0.000": false, "identity": false, "": false,
	} {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept-Encoding", accept)
		w := httptest.NewRecorder()
		compressed(w, r, []byte(text))
		var body io.Reader = w.Body
		size := w.Body.Len()
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != want {
			t.Errorf("Accept-Encoding %q: gzip %t, want %t", accept, got, want)
			continue
		}
		if want {
			z, err := gzip.NewReader(body)
			if err != nil {
				t.Fatal(err)
			}
			if body = z; size > len(text)/10 {
				t.Errorf("%d bytes of %d", size, len(text))
			}
		}
		if got, err := io.ReadAll(body); err != nil || string(got) != text {
			t.Errorf("Accept-Encoding %q: another text, %v", accept, err)
		}
	}
}
