package main

import "net/http"

// ratings is stars by reviewer.
type ratings map[string]int

func ratingsHandler() http.Handler {
	m := mux()
	m.HandleFunc("GET /ratings/{book}", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, ratings{"A reader in Ephesus": 5, "A merchant of Syracuse": 4})
	})
	// Nobody's opinion is kept: there is a method that writes so that there is something to forbid.
	m.HandleFunc("POST /ratings/{book}", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]string{"thanks": "for your opinion"})
	})
	return m
}
