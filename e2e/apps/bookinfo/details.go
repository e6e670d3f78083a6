package main

import "net/http"

// details is what is printed inside a book's cover.
type details struct {
	Title     string `json:"title"`
	Author    string `json:"author"`
	Year      int    `json:"year"`
	Publisher string `json:"publisher"`
	Language  string `json:"language"`
	Pages     int    `json:"pages"`
	ISBN      string `json:"isbn"`
}

// book is the only one in stock.
func book() details {
	return details{
		Title: "The Comedy of Errors", Author: "William Shakespeare", Year: 1595, Publisher: "Ambit House",
		Language: "English", Pages: 200, ISBN: "978-0-00-000000-2",
	}
}

func detailsHandler() http.Handler {
	m := mux()
	m.HandleFunc("GET /details/{book}", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, book()) })
	return m
}
