package main

import (
	"net/http"
	"os"
)

// reviewsPage is what readers think, and who of the service's pods says so.
type reviewsPage struct {
	Version string   `json:"version"`
	Pod     string   `json:"pod"`
	Reviews []review `json:"reviews"`
	// Problem says why there are no stars, where there should be.
	Problem string `json:"problem,omitempty"`
}

type review struct {
	Reviewer string `json:"reviewer"`
	Text     string `json:"text"`
	Stars    int    `json:"stars,omitempty"`
	Color    string `json:"color,omitempty"`
}

type reviews struct {
	version string
	ratings service
}

func newReviews(version string, ratings service) reviews { return reviews{version, ratings} }

func (s reviews) handler() http.Handler {
	m := mux()
	m.HandleFunc("GET /reviews/{book}", s.get)
	return m
}

func (s reviews) get(w http.ResponseWriter, r *http.Request) {
	host, _ := os.Hostname()
	page := reviewsPage{Version: s.version, Pod: host, Reviews: []review{
		{Reviewer: "A reader in Ephesus", Text: "Two pairs of twins, one day, and nobody asks the obvious question. I laughed until my master called me by my brother's name."},
		{Reviewer: "A merchant of Syracuse", Text: "Short, loud, and everyone gets his purse back in the end. More than I can say of my last voyage."},
	}}
	// The first version has no stars, so it has no need of ratings.
	if s.version != "v1" {
		color := "black"
		if s.version == "v3" {
			color = "crimson"
		}
		var stars ratings
		if err := s.ratings.get(r, "/ratings/"+r.PathValue("book"), &stars); err != nil {
			page.Problem = err.Error()
		}
		for i := range page.Reviews {
			page.Reviews[i].Stars, page.Reviews[i].Color = stars[page.Reviews[i].Reviewer], color
		}
	}
	writeJSON(w, page)
}
