package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestShop(t *testing.T) {
	server := func(h http.Handler) service {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return newService(s.URL)
	}
	down := server(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }))
	d, r := server(detailsHandler()), server(ratingsHandler())
	tests := []struct {
		name          string
		page          productpage
		status        int
		with, without []string
	}{
		{"first version has no stars", productpage{d, server(newReviews("v1", down).handler())}, 200,
			[]string{"The Comedy of Errors", "A reader in Ephesus", "reviews v1"}, []string{"★", "not available"}},
		{"second version has black stars", productpage{d, server(newReviews("v2", r).handler())}, 200, []string{"★★★★☆", "color: black"}, nil},
		{"third version has red stars", productpage{d, server(newReviews("v3", r).handler())}, 200, []string{"★★★★★", "color: crimson"}, nil},
		{"no ratings, but the reviews", productpage{d, server(newReviews("v2", down).handler())}, 200,
			[]string{"ratings are not available", "503", "A merchant of Syracuse"}, []string{"★"}},
		{"no details, but the reviews", productpage{down, server(newReviews("v1", down).handler())}, 502,
			[]string{"details are not available", "A merchant of Syracuse"}, []string{"ISBN"}},
		{"no reviews, but the details", productpage{d, down}, 502, []string{"reviews are not available", "ISBN"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := httptest.NewServer(tt.page.handler())
			defer s.Close()
			resp, err := http.Get(s.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
			for _, want := range tt.with {
				if !strings.Contains(string(body), want) {
					t.Errorf("page lacks %q:\n%s", want, body)
				}
			}
			for _, bad := range tt.without {
				if strings.Contains(string(body), bad) {
					t.Errorf("page has %q", bad)
				}
			}
		})
	}
}

func TestUnknownService(t *testing.T) {
	for _, args := range [][]string{nil, {"shelf"}, {"details", "--what"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("run(%q) succeeded", args)
		}
	}
}
