package main

import (
	_ "embed"
	"html/template"
	"net/http"
	"os"
	"strings"
	"sync"
)

//go:embed productpage.html
var pageHTML string

type productpage struct {
	details, reviews service
}

// shown is what the page shows. A part with a problem is left out and the problem said instead.
type shown struct {
	Pod                            string
	Details                        details
	Reviews                        reviewsPage
	DetailsProblem, ReviewsProblem string
}

func (p productpage) handler() http.Handler {
	page := template.Must(template.New("page").Funcs(template.FuncMap{"stars": stars}).Parse(pageHTML))
	m := mux()
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/productpage", http.StatusFound) })
	m.HandleFunc("GET /productpage", func(w http.ResponseWriter, r *http.Request) {
		s := p.collect(r)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		// A page without its parts is an answer to a person, and an error to whoever counts them.
		if s.DetailsProblem != "" || s.ReviewsProblem != "" {
			w.WriteHeader(http.StatusBadGateway)
		}
		// A client that has gone away is no trouble of the shop's.
		_ = page.Execute(w, s)
	})
	m.HandleFunc("GET /api/productpage", func(w http.ResponseWriter, r *http.Request) {
		s := p.collect(r)
		if s.DetailsProblem != "" || s.ReviewsProblem != "" {
			w.WriteHeader(http.StatusBadGateway)
		}
		writeJSON(w, s)
	})
	return m
}

// collect asks both services at once.
func (p productpage) collect(r *http.Request) shown {
	var s shown
	s.Pod, _ = os.Hostname()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.details.get(r, "/details/0", &s.Details); err != nil {
			s.DetailsProblem = err.Error()
		}
	})
	wg.Go(func() {
		if err := p.reviews.get(r, "/reviews/0", &s.Reviews); err != nil {
			s.ReviewsProblem = err.Error()
		}
	})
	wg.Wait()
	return s
}

func stars(n int) string {
	n = max(0, min(n, 5))
	return strings.Repeat("★", n) + strings.Repeat("☆", 5-n)
}
